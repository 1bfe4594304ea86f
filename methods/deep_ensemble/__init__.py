"""`deep_ensemble`: several independently trained networks, averaged (Lakshminarayanan et al. 2017).

The members are runs of `map`: a launcher trains them in parallel, and other rows re-use them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from benchmark import Method, MethodConfig, Need, Posterior, Problem, RunContext

if TYPE_CHECKING:
    from benchmark import WeightSamples


class DeepEnsembleConfig(MethodConfig):
    """Settings of `deep_ensemble`. How a member is trained is set for `map`."""

    members: int = Field(5, ge=2, description="M, networks in the ensemble; predictions use at most the S draws")


class DeepEnsemble(Method):
    """A uniform mixture of M runs of `map` with independent initialisations and data orders; member 0 is the base.

    Lakshminarayanan, Pritzel, Blundell: Simple and scalable predictive uncertainty estimation using deep ensembles,
    NeurIPS 2017; without their adversarial training, as is common.
    """

    name = "deep_ensemble"
    Config = DeepEnsembleConfig

    def needs(self, config: DeepEnsembleConfig) -> tuple[Need, ...]:
        return tuple(Need("map", {"member": member}) for member in range(config.members))

    def fit(self, problem: Problem, ctx: RunContext, config: DeepEnsembleConfig) -> WeightSamples:
        """Collects the members' weights, in order; trains nothing.

        Raises:
            ConfigError: the needed runs are not `members` runs with weights, as when `fit` is called by hand.
        """
        from methods.deep_ensemble.collect import collect

        return collect(ctx, config.members, problem.draws)

    def posterior_type(self) -> type[Posterior]:
        from benchmark import WeightSamples

        return WeightSamples
