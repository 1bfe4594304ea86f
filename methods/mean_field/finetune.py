"""`map_finetuned`: the training of `mean_field` with an empty Bayesian set."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from benchmark import Fact, PointMass, Problem, RunContext
from methods.mean_field.base_run import recipe_for
from methods.mean_field.config import MapFinetunedConfig
from methods.mean_field.prior import Prior
from methods.mean_field.probe import keep_used
from methods.mean_field.select import select_nothing
from methods.mean_field.state import MeanFieldState
from methods.mean_field.train import fine_tune, recipe_facts


class FineTunedPoint(PointMass):
    """`PointMass` that knows the facts of its training; they are no part of its bytes."""

    def __init__(self, weights: Mapping[str, Tensor], facts: Mapping[str, Fact] | None = None) -> None:
        super().__init__(weights)
        self._facts = dict(facts or {})

    def facts(self) -> dict[str, Fact]:
        """optimiser, lr, l2, l2_assumed, bn, skipped_steps."""
        return dict(self._facts)


def fit_map_finetuned(problem: Problem, ctx: RunContext, config: MapFinetunedConfig) -> FineTunedPoint:
    """Errors as `fit_mean_field`."""
    recipe = recipe_for(config, ctx)
    network = problem.network
    selection = keep_used(network, select_nothing(network), problem.train, ctx.seed_for("probe"))
    state = MeanFieldState(network, selection)
    facts = fine_tune(problem, ctx, config, recipe, state, Prior(recipe.l2, problem.n_train))
    return FineTunedPoint(state.points(), {**recipe_facts(recipe), **facts})
