"""`2dgbnn`: one label per weight and a few hundred shared Gaussians instead of a Gaussian per weight.

Lin, Guan, Jing, Botterweck, Patane, "Stochastic Weight Sharing for Bayesian Neural Networks" (AISTATS 2025, arXiv
2505.17856). This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.stochastic_weight_sharing.config import Source, WeightSharingConfig

if TYPE_CHECKING:
    from methods.stochastic_weight_sharing.posterior import SharedPosterior


class StochasticWeightSharing(Method):
    """Weights that are alike in (mu, sigma) share one Gaussian; the shared Gaussians are fine-tuned on the ELBO.

    Stage 1, the Gaussian of every weight, is a run of its own, so that all numbers of components start from the same.
    """

    name = "2dgbnn"
    Config = WeightSharingConfig

    def needs(self, config: WeightSharingConfig) -> tuple[Need, ...]:
        """The base network; the run whose Gaussians are shared."""
        base = Need("map")
        if config.source == "base":
            return (base,)
        if isinstance(config.source, Source):
            return base, Need(config.source.method, config.source.settings)
        prior = {"prior_scale": config.prior_scale, "kl_temperature": config.kl_weight, "l2": config.l2}
        return base, Need("mean_field", {"preset": config.source, **prior})

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> SharedPosterior:
        from methods.stochastic_weight_sharing.fit import fit_weight_sharing

        return fit_weight_sharing(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from methods.stochastic_weight_sharing.posterior import SharedPosterior

        return SharedPosterior
