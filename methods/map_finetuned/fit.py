"""Fine-tuning to a point: every parameter trained, none of them noisy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from benchmark import Fact, PointMass, Problem, RunContext
from methods.finetuning.base_run import decaying, recipe_for
from methods.finetuning.descent import PointDescent, optimiser_for
from methods.finetuning.loop import Schedule, fine_tune, rate_of, recipe_facts
from methods.finetuning.points import Points
from methods.finetuning.probe import keep_used
from methods.finetuning.select import select_nothing
from methods.finetuning.step import Learner
from methods.map_finetuned import MapFinetunedConfig


class FineTunedPoint(PointMass):
    """`PointMass` that knows the facts of its training; they are no part of its bytes."""

    def __init__(self, weights: Mapping[str, Tensor], facts: Mapping[str, Fact] | None = None) -> None:
        super().__init__(weights)
        self._facts = dict(facts or {})

    def facts(self) -> dict[str, Fact]:
        """optimiser, lr, l2, l2_assumed, bn, precision, skipped_steps, overflown_steps."""
        return dict(self._facts)


class PointLearner(Learner):
    """Nothing but points."""

    def __init__(self, network: nn.Module, points: Points, descent: PointDescent) -> None:
        super().__init__(network, points)
        self._descent = descent

    def begin(self) -> None:
        """No noise to draw."""

    def weights(self) -> Mapping[str, Tensor]:
        return self.points.tensors()

    def leaves(self) -> Sequence[Tensor]:
        return self._descent.leaves()

    def update(self, t: int, found_inf: Tensor) -> None:
        self._descent.update(t, found_inf)

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self.points.state_dict(), "descent": self._descent.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.points.load_state_dict(state["tensors"])
        self._descent.load_state_dict(state["descent"])


def fit_map_finetuned(problem: Problem, ctx: RunContext, config: MapFinetunedConfig) -> FineTunedPoint:
    """The fine-tuned network; the problem's own is left as it was.

    Raises:
        ConfigError: no base run; the network ignores replaced weights.
        Diverged: the loss stays non-finite, or a weight ends so.
    """
    recipe = recipe_for(config, ctx)
    network = problem.network
    selection = keep_used(network, select_nothing(network), problem.train, ctx.seed_for("probe"))
    points = Points(network, selection.trained, selection.frozen)
    schedule = Schedule.of(problem, ctx, config)
    descent = PointDescent(
        points,
        optimiser_for(recipe.optimiser, list(points.trained.values()), nesterov=config.nesterov),
        rate_of(config, recipe, schedule.steps),
        decaying(network),
        recipe.l2,
        clip_norm=config.clip_norm,
    )
    learner = PointLearner(network, points, descent)
    facts = fine_tune(problem, ctx, config, schedule, learner, sampler=lambda generator: {})
    return FineTunedPoint(points.floats(), {**recipe_facts(recipe), **facts})
