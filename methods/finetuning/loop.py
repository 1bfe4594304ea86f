"""The training loop of a fine-tuning: modes of the network, epochs, and what has to be finite at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmark import Fact, Problem, RunContext, require_finite
from methods.finetuning.base_run import Recipe
from methods.finetuning.config import FineTuningConfig
from methods.finetuning.descent import Rate
from methods.finetuning.keep import BestEpoch
from methods.finetuning.modes import Normalisation, only_norms_training, resolve_bn
from methods.finetuning.points import Points
from methods.finetuning.statistics import Sampler, average_statistics
from methods.finetuning.step import Learner, Step, launchers_micro_batch
from methods.precision import Precision, resolve
from methods.training import Stateful, cosine, train


@dataclass(frozen=True)
class Schedule:
    """The length and the ways of one fine-tuning, resolved. bn: how normalisation really runs."""

    epochs: int
    steps: int
    micro_batch: int | None
    bn: Normalisation
    precision: Precision

    @classmethod
    def of(cls, problem: Problem, ctx: RunContext, config: FineTuningConfig, *, divisible: bool = True) -> Schedule:
        """divisible: a step in parts is the step in one piece, up to rounding, where statistics do not matter."""
        epochs = problem.epochs(config.epochs)
        size = min(config.micro_batch or config.batch_size, config.batch_size, len(problem.train))
        bn = resolve_bn(problem.network, config.bn, _smallest_pass(len(problem.train), config.batch_size, size))
        harmless = divisible and bn in ("none", "frozen")
        micro_batch = launchers_micro_batch(ctx, size, harmless=harmless) or config.micro_batch
        precision = Precision(resolve(config.precision, ctx.device), ctx.device)
        return cls(epochs, epochs * problem.train.steps(config.batch_size), micro_batch, bn, precision)

    def facts(self) -> dict[str, Fact]:
        """bn, precision."""
        return {"bn": self.bn, "precision": self.precision.kind}


def _smallest_pass(examples: int, batch_size: int, size: int) -> int:
    """Examples of the smallest forward pass: batches of an epoch are equal to within one, and so are their parts."""
    batch = examples // -(-examples // batch_size)
    return batch // -(-batch // size)


def rate_of(config: FineTuningConfig, recipe: Recipe, steps: int) -> Rate:
    """The rate of the means: constant, or cosine to 0."""
    if config.schedule_mu == "constant":
        return lambda t: recipe.rate
    return lambda t: cosine(t, steps, recipe.rate)


def fine_tune(
    problem: Problem,
    ctx: RunContext,
    config: FineTuningConfig,
    schedule: Schedule,
    learner: Learner,
    *,
    sampler: Sampler,
    remembered: Mapping[str, Stateful] | None = None,
    measures: Callable[[], Mapping[str, float | str]] = dict,
    keep: BestEpoch | None = None,
) -> dict[str, Fact]:
    """Train `learner` in place; returns facts of the training.

    sampler: draws weights for `bn: reestimate`. remembered: what else checkpoints carry. measures: logged per epoch.
    keep: chooses the epoch whose state the learner ends with, None: the last.

    Raises:
        Diverged: the loss stays non-finite, or a point-valued weight or running statistic ends so.
    """
    step = Step(learner, micro_batch=schedule.micro_batch, precision=schedule.precision)

    def after_epoch(epoch: int, loss: float) -> None:
        step.look()
        validated = {} if keep is None else {"val_nll": keep.see(epoch + 1)}
        ctx.log(epoch=epoch + 1, train_loss=loss, skipped_steps=step.skipped, **validated, **measures())

    kept = {} if keep is None else {"keep": keep}
    if keep is not None and ctx.checkpoint.load() is None:
        ctx.log(epoch=0, val_nll=keep.see(0))
    with only_norms_training(problem.network, schedule.bn in ("train", "reestimate")):
        train(
            problem,
            ctx,
            epochs=schedule.epochs,
            batch_size=config.batch_size,
            step=step,
            stateful={"step": step, **kept, **(remembered or {})},
            after_epoch=after_epoch,
        )
    if keep is not None:
        keep.restore()
    if schedule.bn == "reestimate":
        average_statistics(
            problem.network, learner.points, sampler, problem.train, config.batch_size, ctx.seed_for("reestimate")
        )
    require_finite_points(learner.points, learner.advice)
    facts: dict[str, Fact] = {"skipped_steps": step.skipped, "overflown_steps": step.overflown}
    kept_facts: dict[str, Fact] = {"keep": "last", "epoch_kept": schedule.epochs} if keep is None else keep.facts()
    return {**schedule.facts(), **facts, **kept_facts}


def require_finite_points(points: Points, advice: str) -> None:
    """Raise Diverged when a non-finite number got into a point-valued weight or a running statistic."""
    for name, tensor in points.floats().items():
        require_finite(float(tensor.sum(dtype=torch.float64)), f"the sum of '{name}'", advice)


def recipe_facts(recipe: Recipe) -> dict[str, Fact]:
    """The resolved settings that depend on the base run."""
    return {"optimiser": recipe.optimiser, "lr": recipe.rate, "l2": recipe.l2, "l2_assumed": recipe.l2_assumed}
