"""`map_finetuned`: the schedule of `mean_field` without noise, a point mass.

The companion that separates the gain of further training from the gain of weight noise. This module only declares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.finetuning.config import FineTuningConfig

if TYPE_CHECKING:
    from benchmark import PointMass


class MapFinetunedConfig(FineTuningConfig):
    """Settings of `map_finetuned`: those of `mean_field` that a point mass has."""

    epochs: int = Field(
        12, ge=1, le=10_000, description="nominal passes over the training data, scaled by the protocol's budget"
    )


class MapFinetuned(Method):
    """Further training of the base network, as the Bayesian fine-tuning does it, to a point."""

    name = "map_finetuned"
    version = 2
    Config = MapFinetunedConfig

    def needs(self, config: MapFinetunedConfig) -> tuple[Need, ...]:
        return (Need("map"),)

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> PointMass:
        from methods.map_finetuned.fit import fit_map_finetuned

        return fit_map_finetuned(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from benchmark import PointMass

        return PointMass
