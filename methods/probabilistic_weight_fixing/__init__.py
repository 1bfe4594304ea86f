"""`pwfn`: every weight on one of a few hundred values, chosen by how far its own uncertainty lets it move.

Subia-Waud, Dasmahapatra, "Probabilistic Weight Fixing: Large-scale training of neural network weight uncertainties for
quantization" (NeurIPS 2023, arXiv 2309.13575). This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.probabilistic_weight_fixing.config import WeightFixingConfig

if TYPE_CHECKING:
    from methods.fixed_weights.posterior import FixedPosterior


class ProbabilisticWeightFixing(Method):
    """Weights become Gaussians, are trained a little, and are fixed round by round to sums of few powers of two.

    Predicts with the fixed means, or with draws around them.
    """

    name = "pwfn"
    Config = WeightFixingConfig

    def needs(self, config: WeightFixingConfig) -> tuple[Need, ...]:
        return (Need("map"),)

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> FixedPosterior:
        from methods.probabilistic_weight_fixing.fit import fit_weight_fixing

        return fit_weight_fixing(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from methods.fixed_weights.posterior import FixedPosterior

        return FixedPosterior
