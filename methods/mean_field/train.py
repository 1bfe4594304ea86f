"""The fine-tuning schedule that `mean_field` and `map_finetuned` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmark import Fact, Problem, RunContext, require_finite
from methods.mean_field.base_run import Recipe, decaying
from methods.mean_field.config import FineTuningConfig
from methods.mean_field.modes import only_norms_training, resolve_bn
from methods.mean_field.prior import Prior
from methods.mean_field.state import MeanFieldState
from methods.mean_field.statistics import average_statistics
from methods.mean_field.step import MeanFieldStep
from methods.training import Stateful, cosine, train

PEAK_CAP = 0.05
END_FRACTION = 0.1


@dataclass(frozen=True)
class Travel:
    """The schedule of Adam on psi: rate(t) = peak (0.1 + 0.9 (1 + cos(pi t/T)) / 2), t = 0 .. T-1.

    Adam moves a parameter by about its rate per step whatever the gradient's scale; the rates sum to `nats`, unless
    the cap of 0.05 on the peak makes the way shorter.
    """

    nats: float
    steps: int

    @property
    def peak(self) -> float:
        """min(0.05, nats / sum_t shape_t)."""
        return min(PEAK_CAP, self.nats / sum(self._shape(t) for t in range(self.steps)))

    def rates(self) -> Callable[[int], float]:
        """t -> learning rate."""
        peak = self.peak
        return lambda t: peak * self._shape(t)

    def _shape(self, t: int) -> float:
        return cosine(t, self.steps, 1.0, END_FRACTION)


def fine_tune(
    problem: Problem,
    ctx: RunContext,
    config: FineTuningConfig,
    recipe: Recipe,
    state: MeanFieldState,
    prior: Prior,
    *,
    travel: float = 0.0,
    clamp: bool = False,
    remembered: Mapping[str, Stateful] | None = None,
    measures: Callable[[], dict[str, float]] = dict,
) -> dict[str, Fact]:
    """Train `state` in place, `config.epochs` nominal epochs; returns facts of the training.

    travel: nats that psi can move; 0 leaves it. remembered: what else checkpoints carry. measures: logged per epoch.

    Raises:
        Diverged: the loss stays non-finite, or a weight or running statistic ends so.
    """
    network = problem.network
    epochs = problem.epochs(config.epochs)
    total = epochs * problem.train.steps(config.batch_size)
    way = Travel(travel, total) if travel > 0 else None
    bn = resolve_bn(network, config.bn, min(config.batch_size, len(problem.train)))
    # Statistics of a part of the batch are other numbers, and an operational setting must not change a number.
    micro_batch = ctx.micro_batch if bn in ("none", "frozen") else None
    step = MeanFieldStep(
        network,
        state,
        prior,
        decaying=decaying(network),
        optimiser=recipe.optimiser,
        mean_rate=lambda t: cosine(t, total, recipe.rate),
        log_sd_rate=way.rates() if way else None,
        clamp=clamp,
        generator=ctx.generator("noise", ctx.device),
        micro_batch=micro_batch,
    )

    def log_epoch(epoch: int, loss: float) -> None:
        ctx.log(epoch=epoch + 1, train_loss=loss, skipped_steps=step.skipped, **measures())

    with only_norms_training(network, bn in ("train", "reestimate")):
        train(
            problem,
            ctx,
            epochs=epochs,
            batch_size=config.batch_size,
            step=step,
            stateful={"step": step, **(remembered or {})},
            after_epoch=log_epoch,
        )
    step.release()
    if bn == "reestimate":
        average_statistics(network, state, problem.train, config.batch_size, ctx.seed_for("reestimate"))
    _require_finite(state)
    return {
        "bn": bn,
        "skipped_steps": step.skipped,
        "psi_travel_bound": sum(map(way.rates(), range(total))) if way else 0.0,
    }


def recipe_facts(recipe: Recipe) -> dict[str, Fact]:
    """The resolved settings that depend on the base run."""
    return {
        "optimiser": recipe.optimiser,
        "lr": recipe.rate,
        "l2": recipe.l2,
        "l2_assumed": recipe.l2_assumed,
    }


def _require_finite(state: MeanFieldState) -> None:
    """Raise Diverged when a non-finite number got into what the posterior is made of."""
    advice = "Try a third of lr_mu, and half of travel."
    require_finite(float(state.mu.flat.sum() + state.psi.flat.sum()), "the sum of the Gaussians' parameters", advice)
    for name, tensor in state.points().items():
        require_finite(float(tensor.sum()), f"the sum of '{name}'", advice)
