"""Training a network to one set of weights: the recipe behind `map` and behind methods that train like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import ConfigError, Fact, Problem, RunContext, copy_of, require_finite, weights_of
from methods.map.config import TrainingConfig
from methods.map.evaluation import Evaluation, evaluate
from methods.map.recipe import Recipe, build_optimiser, rate, recipe_for
from methods.map.selection import BestEpoch, LastEpoch
from methods.training import train


@dataclass(frozen=True)
class PointFit:
    """weights: copies of every parameter and floating-point buffer of the kept epoch, on the run's device.

    facts: best_epoch (the one that is kept, from 1), epochs_run, optimiser, lr, l2 (coupled, see `Recipe.l2`),
    decoupled_weight_decay; with a validation split val_nll and val_accuracy of the kept weights.
    """

    weights: Mapping[str, Tensor]
    facts: dict[str, Fact]


def fit_point(
    network: nn.Module, problem: Problem, ctx: RunContext, config: TrainingConfig, *, data_seed: int | None = None
) -> PointFit:
    """Minimise the mean cross-entropy with the decay of `recipe_for`, in place, from the network's own weights.

    data_seed: seed of order and augmentation of the epochs; None: the run's own.
    The validation split is evaluated after every epoch, in eval mode and float32. Without one the last epoch is kept.
    `ctx.micro_batch` is ignored: statistics of batch norm and masks of dropout depend on the batch, and sums over
    parts of a batch round differently, so training in parts would give another network.

    Raises:
        Diverged: a loss or a weight became non-finite.
        ConfigError: `patience` without a validation split.
    """
    if config.patience is not None and problem.val is None:
        raise ConfigError(
            f"'patience: {config.patience}' needs a validation split, and this task has none.\n"
            "  Leave 'patience' out, or let the task hold out validation data."
        )
    epochs = problem.epochs(config.epochs)
    training = _Training(network, problem, ctx, config, steps=epochs * problem.train.steps(config.batch_size))
    network.train()
    train(
        problem,
        ctx,
        epochs=epochs,
        batch_size=config.batch_size,
        step=training.step,
        stateful={"training": training},
        after_epoch=training.after_epoch,
        data_seed=data_seed,
    )
    return training.result()


class _Training:
    """Everything that changes while `fit_point` runs; saved and restored as one part of a checkpoint."""

    def __init__(
        self, network: nn.Module, problem: Problem, ctx: RunContext, config: TrainingConfig, steps: int
    ) -> None:
        self.network, self.problem, self.ctx, self.config, self.steps = network, problem, ctx, config, steps
        self.recipe = recipe_for(network, config)
        self.optimiser = build_optimiser(network, self.recipe)
        self.kept = BestEpoch() if config.select == "best" and problem.val is not None else LastEpoch()
        self.epochs_run = 0

    def step(self, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        """One optimiser step; the batch loss, not read, so that nothing waits for the device."""
        loss = _loss(self.network, inputs, labels, self.config)
        loss.backward()
        self.optimiser.step(rate(t, self.steps, self.recipe.lr, self.config))
        return loss.detach()

    def after_epoch(self, epoch: int, loss: float) -> bool:
        """Validate, log, remember; True when patience is at its end. `epoch` counts from 0."""
        self.epochs_run = epoch + 1
        require_finite(loss, f"the training loss of epoch {self.epochs_run}", _advice(self.recipe))
        found = None if self.problem.val is None else evaluate(self.network, self.problem.val)
        if found is not None:
            require_finite(found.nll, f"the validation NLL of epoch {self.epochs_run}", _advice(self.recipe))
        self.kept.see(self.epochs_run, found, self.network)
        self.ctx.log(epoch=self.epochs_run, loss=loss, **_columns(found))
        patience = self.config.patience
        return patience is not None and self.epochs_run - self.kept.epoch >= patience

    def result(self) -> PointFit:
        """The kept weights, also put into the network."""
        self.kept.restore(self.network)
        weights = copy_of(weights_of(self.network))
        finite = torch.stack([tensor.isfinite().all() for tensor in weights.values()]).all()
        require_finite(0.0 if finite else float("nan"), "a trained weight", _advice(self.recipe))
        return PointFit(
            weights,
            {
                "best_epoch": self.kept.epoch,
                "epochs_run": self.epochs_run,
                "optimiser": self.recipe.optimiser,
                "lr": self.recipe.lr,
                "l2": self.recipe.l2,
                "decoupled_weight_decay": self.recipe.decoupled,
                **_columns(self.kept.evaluation),
            },
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "kept": self.kept.state_dict(),
            "epochs_run": self.epochs_run,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.kept.load_state_dict(state["kept"])
        self.epochs_run = state["epochs_run"]


def _loss(network: nn.Module, inputs: Tensor, labels: Tensor, config: TrainingConfig) -> Tensor:
    """Mean cross-entropy of a batch, in float32 from the logits on."""
    on_cuda = inputs.is_cuda
    if on_cuda:
        # The inputs' layout decides that of all activations. Weights stay contiguous: a checkpoint and the fused
        # optimiser's state then agree on one layout.
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16, enabled=on_cuda and config.precision == "bf16"):
        logits = network(inputs)  # (b, K)
    return cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)


def _columns(found: Evaluation | None) -> dict[str, float]:
    return {} if found is None else {"val_nll": found.nll, "val_accuracy": found.accuracy}


def _advice(recipe: Recipe) -> str:
    return (
        f"Training with {recipe.optimiser} at a peak rate of {recipe.lr:g} diverged. Try 'lr: {recipe.lr / 3:.2g}', "
        "or a longer 'warmup'."
    )
