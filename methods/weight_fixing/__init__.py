"""`wfn`: every weight on one of a few hundred sums of signed powers of two, chosen by its relative distance.

Subia-Waud, Dasmahapatra, "Weight Fixing Networks" (ECCV 2022, arXiv 2210.13554), the deterministic predecessor of
`pwfn`. This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.weight_fixing.config import WfnConfig

if TYPE_CHECKING:
    from methods.fixed_weights.posterior import FixedPosterior


class WeightFixing(Method):
    """Weights are fixed iteration by iteration to sums of few signed powers of two, and trained in between. A point."""

    name = "wfn"
    Config = WfnConfig

    def needs(self, config: WfnConfig) -> tuple[Need, ...]:
        return (Need("map"),)

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> FixedPosterior:
        from methods.weight_fixing.fit import fit_wfn

        return fit_wfn(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from methods.fixed_weights.posterior import FixedPosterior

        return FixedPosterior
