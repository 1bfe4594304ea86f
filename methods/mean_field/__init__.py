"""`mean_field`: a factorised Gaussian over the weights, fine-tuned from the base network.

Deng, Zhu, "BayesAdapter: Being Bayesian, Inexpensively and Reliably, via Bayesian Fine-tuning" (ACML 2022,
arXiv 2010.01979). This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.mean_field.config import MeanFieldConfig

if TYPE_CHECKING:
    from methods.mean_field.posterior import GaussianPosterior


class MeanField(Method):
    """Every selected weight gets a Gaussian around the base network's value; a few epochs on the ELBO."""

    name = "mean_field"
    version = 2
    Config = MeanFieldConfig

    def needs(self, config: MeanFieldConfig) -> tuple[Need, ...]:
        return (Need("map"),)

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> GaussianPosterior:
        from methods.mean_field.fit import fit_mean_field

        return fit_mean_field(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from methods.mean_field.posterior import GaussianPosterior

        return GaussianPosterior
