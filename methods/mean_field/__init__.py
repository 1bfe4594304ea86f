"""`mean_field`: a factorised Gaussian over the weights, fine-tuned from the base network; and `map_finetuned`.

Deng, Zhu, "BayesAdapter: Being Bayesian, Inexpensively and Reliably, via Bayesian Fine-tuning" (ACML 2022,
arXiv 2010.01979). This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.mean_field.config import MapFinetunedConfig, MeanFieldConfig

if TYPE_CHECKING:
    from benchmark import PointMass
    from methods.mean_field.posterior import GaussianPosterior


class MeanField(Method):
    """Every selected weight gets a Gaussian around the base network's value; a few epochs on the ELBO."""

    name = "mean_field"
    Config = MeanFieldConfig

    def needs(self, config: MeanFieldConfig) -> tuple[Need, ...]:
        return (Need("map"),)

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> GaussianPosterior:
        from methods.mean_field.fit import fit_mean_field

        return fit_mean_field(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from methods.mean_field.posterior import GaussianPosterior

        return GaussianPosterior


class MapFinetuned(Method):
    """The companion that separates the gain of further training from the gain of weight noise: the schedule of
    `mean_field` without noise, a point mass."""

    name = "map_finetuned"
    Config = MapFinetunedConfig

    def needs(self, config: MapFinetunedConfig) -> tuple[Need, ...]:
        return (Need("map"),)

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> PointMass:
        from methods.mean_field.finetune import fit_map_finetuned

        return fit_map_finetuned(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from benchmark import PointMass

        return PointMass
