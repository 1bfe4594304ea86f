"""Training a network to one set of weights: the recipe behind `map` and behind methods that train like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import ConfigError, Diverged, Fact, Problem, RunContext, copy_of, require_finite, seed_from, weights_of
from methods.map.config import TrainingConfig
from methods.map.evaluation import Evaluation
from methods.map.parallel import evaluated, parallel_over
from methods.map.recipe import Recipe, recipe_for
from methods.map.selection import BestEpoch, LastEpoch
from methods.map.step import Step
from methods.training import train


@dataclass(frozen=True)
class PointFit:
    """weights: copies of every parameter and floating-point buffer of the kept epoch, on the run's device.

    facts: best_epoch (the one that is kept, from 1), epochs_run, optimiser, lr, l2 (coupled, see `Recipe.l2`),
    decoupled_weight_decay; with a validation split val_nll and val_accuracy of the kept weights; precision (the one
    that ran) unless fp32 was asked for, and for fp16 skipped_steps. Without training (`epochs: 0`) best_epoch and
    epochs_run are 0, there is no lr, and l2 and decoupled_weight_decay are told only where the settings give them.
    """

    weights: Mapping[str, Tensor]
    facts: dict[str, Fact]


def fit_point(
    network: nn.Module, problem: Problem, ctx: RunContext, config: TrainingConfig, *, data_seed: int | None = None
) -> PointFit:
    """Minimise the mean cross-entropy with the decay of `recipe_for`, in place, from the network's own weights.

    data_seed: seed of order, augmentation and mixing of the epochs; None: the run's own.
    The validation split is evaluated after every epoch, in eval mode and float32. Without one the last epoch is kept.
    `ctx.micro_batch` is ignored: statistics of batch norm and masks of dropout depend on the batch, and sums over
    parts of a batch round differently, so training in parts would give another network. Who needs parts says so by
    `accumulate`, which is a part of the run's identity; several devices (`ctx.team`) then share the parts.

    Raises:
        Diverged: a loss or a weight became non-finite.
        ConfigError: `patience` without a validation split, `precision: bf16` on a GPU without it, or several devices
            that cannot share the parts of a batch evenly.
    """
    if config.epochs == 0:
        return _as_it_is(network, problem, ctx, config)
    if config.patience is not None and problem.val is None:
        raise ConfigError(
            f"'patience: {config.patience}' needs a validation split, and this task has none.\n"
            "  Leave 'patience' out, or let the task hold out validation data."
        )
    epochs = problem.epochs(config.epochs)
    recipe = recipe_for(network, config)
    per_epoch = problem.train.steps(config.batch_size)
    step = Step(
        network,
        recipe,
        config,
        ctx.device,
        steps=epochs * per_epoch,
        mixing_seed=ctx.seed_for("mixing") if data_seed is None else seed_from(data_seed, "mixing"),
        parallel=parallel_over(ctx, network, problem.train, config),
    )
    training = _Training(network, problem, ctx, config, recipe, step)
    network.train()
    train(
        problem,
        ctx,
        epochs=epochs,
        batch_size=config.batch_size,
        step=step,
        stateful={"step": step, "training": training},
        after_epoch=training.after_epoch,
        data_seed=data_seed,
        parts=config.accumulate,
    )
    return training.result()


def _as_it_is(network: nn.Module, problem: Problem, ctx: RunContext, config: TrainingConfig) -> PointFit:
    """The network that nothing has trained here: pretrained weights, or the initialisation."""
    weights = copy_of(weights_of(network))
    advice = "Nothing was trained ('epochs: 0'): these are the weights that the network starts with."
    _require_finite(weights, "a weight of the network", advice)
    found = evaluated(ctx, network, problem.val)
    if found is not None:
        require_finite(found.nll, "the validation NLL of the network as it starts", advice)
    ctx.log(epoch=0, **_columns(found))
    recipe = recipe_for(network, config)
    decay = {} if config.weight_decay == "auto" else _decay(recipe)
    facts: dict[str, Fact] = {"best_epoch": 0, "epochs_run": 0, "optimiser": recipe.optimiser, **decay}
    return PointFit(weights, {**facts, **_columns(found)})


class _Training:
    """What the epochs of a training leave behind beside the step's own state: the kept one, how many there were."""

    def __init__(
        self,
        network: nn.Module,
        problem: Problem,
        ctx: RunContext,
        config: TrainingConfig,
        recipe: Recipe,
        step: Step,
    ) -> None:
        self.network, self.problem, self.ctx, self.config = network, problem, ctx, config
        self.recipe, self.step = recipe, step
        self.kept = BestEpoch() if config.select == "best" and problem.val is not None else LastEpoch()
        self.epochs_run = self._skipped_before = 0

    def after_epoch(self, epoch: int, loss: float) -> bool:
        """Validate, log, remember; True when patience is at its end. `epoch` counts from 0."""
        self.epochs_run = epoch + 1
        require_finite(loss, f"the training loss of epoch {self.epochs_run}", _advice(self.recipe))
        self._require_steps()
        with self.step.averaged():
            found = evaluated(self.ctx, self.network, self.problem.val)
            if found is not None:
                require_finite(found.nll, f"the validation NLL of epoch {self.epochs_run}", _advice(self.recipe))
            self.kept.see(self.epochs_run, found, self.network)
        self.ctx.log(epoch=self.epochs_run, loss=loss, **_columns(found), **self._skipped())
        patience = self.config.patience
        return patience is not None and self.epochs_run - self.kept.epoch >= patience

    def _require_steps(self) -> None:
        """Raise Diverged when fp16 has left out every step of the epoch: its losses say nothing then."""
        if self.config.precision != "fp16":
            return
        left_out, self._skipped_before = self.step.skipped - self._skipped_before, self.step.skipped
        if left_out >= self.problem.train.steps(self.config.batch_size):
            raise Diverged(
                f"every step of epoch {self.epochs_run} overflowed in fp16 and was left out. Try 'precision: bf16' or "
                f"'fp32'. {_advice(self.recipe)}"
            )

    def result(self) -> PointFit:
        """The kept weights, also put into the network."""
        if self.step.average is not None:
            self.step.average.put()
        self.kept.restore(self.network)
        weights = copy_of(weights_of(self.network))
        _require_finite(weights, "a trained weight", _advice(self.recipe))
        precision: dict[str, Fact] = {} if self.config.precision == "fp32" else {"precision": self.step.precision}
        return PointFit(
            weights,
            {
                "best_epoch": self.kept.epoch,
                "epochs_run": self.epochs_run,
                "optimiser": self.recipe.optimiser,
                "lr": self.recipe.lr,
                **_decay(self.recipe),
                **_columns(self.kept.evaluation),
                **precision,
                **self._skipped(),
            },
        )

    def _skipped(self) -> dict[str, int]:
        return {"skipped_steps": self.step.skipped} if self.config.precision == "fp16" else {}

    def state_dict(self) -> dict[str, Any]:
        kept = self.kept.state_dict()
        return {"kept": kept, "epochs_run": self.epochs_run, "skipped_before": self._skipped_before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept.load_state_dict(state["kept"])
        self.epochs_run, self._skipped_before = state["epochs_run"], state["skipped_before"]


def _require_finite(weights: Mapping[str, Tensor], what: str, advice: str) -> None:
    finite = torch.stack([tensor.isfinite().all() for tensor in weights.values()]).all()
    require_finite(0.0 if finite else float("nan"), what, advice)


def _decay(recipe: Recipe) -> dict[str, float]:
    return {"l2": recipe.l2, "decoupled_weight_decay": recipe.decoupled}


def _columns(found: Evaluation | None) -> dict[str, float]:
    return {} if found is None else {"val_nll": found.nll, "val_accuracy": found.accuracy}


def _advice(recipe: Recipe) -> str:
    return (
        f"Training with {recipe.optimiser} at a peak rate of {recipe.lr:g} diverged. Try 'lr: {recipe.lr / 3:.2g}', "
        "or a longer 'warmup'."
    )
