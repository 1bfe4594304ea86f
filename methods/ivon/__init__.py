"""`ivon`: a factorised Gaussian over the weights, learned by the improved variational online Newton method.

Shen, Daheim, Cong, Nickl, Marconi, Bazan, Yokota, Gurevych, Cremers, Khan, Moellenhoff, "Variational Learning is
Effective for Large Deep Networks" (ICML 2024, arXiv 2402.17641). The optimiser is the authors' package `ivon-opt`, an
optional extra. This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.ivon.config import IvonConfig

if TYPE_CHECKING:
    from methods.mean_field.posterior import GaussianPosterior


class Ivon(Method):
    """Natural-gradient steps on mean and variance of every selected weight: the strong mean-field baseline."""

    name = "ivon"
    Config = IvonConfig
    preload = ("torch._dynamo",)  # torch's optimiser class, of which the package's is one, imports it for two seconds

    def needs(self, config: IvonConfig) -> tuple[Need, ...]:
        return (Need("map"),) if config.start == "base" else ()

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> GaussianPosterior:
        from methods.ivon.fit import fit_ivon

        return fit_ivon(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from methods.mean_field.posterior import GaussianPosterior

        return GaussianPosterior
