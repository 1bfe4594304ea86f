"""`parameter_sharing_ensemble`: many networks that share one set of weights, fine-tuned from the base network.

The posterior "PSE" of Deng, Zhu, "BayesAdapter: Being Bayesian, Inexpensively and Reliably, via Bayesian Fine-tuning"
(ACML 2022, arXiv 2010.01979); low-rank factors as in BatchEnsemble (Wen et al., ICLR 2020). This module only declares;
what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.parameter_sharing_ensemble.config import ParameterSharingEnsembleConfig

if TYPE_CHECKING:
    from methods.parameter_sharing_ensemble.posterior import SharedEnsemble


class ParameterSharingEnsemble(Method):
    """C components, each the shared weights times low-rank factors of its own; a few epochs from the base network."""

    name = "parameter_sharing_ensemble"
    Config = ParameterSharingEnsembleConfig

    def needs(self, config: ParameterSharingEnsembleConfig) -> tuple[Need, ...]:
        return (Need("map"),)

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> SharedEnsemble:
        from methods.parameter_sharing_ensemble.fit import fit_ensemble

        return fit_ensemble(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from methods.parameter_sharing_ensemble.posterior import SharedEnsemble

        return SharedEnsemble
