"""`hmc_rebasin`: samples of the posterior made compact by removing permutation symmetry, and what it is checked by.

Xiao, Liu, Bamler: A Compact Representation for Bayesian Neural Networks By Removing Permutation Symmetry, arXiv
2401.00611. This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.hmc_rebasin.config import AlignedConfig, RebasinConfig, SummaryConfig

if TYPE_CHECKING:
    from methods.hmc_rebasin.posterior import CompactPosterior


class _Summary(Method):
    """A Gaussian per weight, made of the samples of a run of `hmc`."""

    def needs(self, config: Any) -> tuple[Need, ...]:
        return (Need("hmc", config.sampling),)

    def title(self, config: Any, needed: Sequence[Need]) -> str:
        """The name of what was sampled with: samples of stochastic gradients are none of HMC."""
        stochastic = needed[0].config.get("sampler") == "sghmc"
        return self.name.replace("hmc", "sghmc", 1) if stochastic else self.name

    def posterior_type(self) -> type[Posterior]:
        from methods.hmc_rebasin.posterior import CompactPosterior

        return CompactPosterior


class HmcRebasin(_Summary):
    """q_r: mean and deviation per weight of samples whose hidden units have been labelled alike."""

    name = "hmc_rebasin"
    Config = RebasinConfig

    def needs(self, config: RebasinConfig) -> tuple[Need, ...]:
        compared = (Need(run.method, run.settings) for run in config.compare)
        return (*super().needs(config), Need("hmc_prior_control", _shared(config, AlignedConfig)), *compared)

    def companions(self, config: RebasinConfig) -> tuple[Need, ...]:
        """Alignment alone makes structure: the samples, their unaligned summary and that of the prior stand beside."""
        return (
            Need("hmc", config.sampling),
            Need("hmc_unaligned", _shared(config, SummaryConfig)),
            Need("hmc_prior_control", _shared(config, AlignedConfig)),
        )

    def fit(self, problem: Problem, ctx: RunContext, config: RebasinConfig) -> CompactPosterior:
        """Aligns and summarises the samples; looks at them as `experiments` says."""
        from methods.hmc_rebasin.fit import fit_rebasin

        return fit_rebasin(problem, ctx, config)


class HmcUnaligned(_Summary):
    """q_d: the same summary of the samples as they come. A control."""

    name = "hmc_unaligned"
    Config = SummaryConfig

    def fit(self, problem: Problem, ctx: RunContext, config: SummaryConfig) -> CompactPosterior:
        from methods.hmc_rebasin.fit import fit_unaligned

        return fit_unaligned(problem, ctx, config)


class HmcPriorControl(_Summary):
    """The same summary of as many draws from the prior, aligned in the same way. A control: it has seen no data."""

    name = "hmc_prior_control"
    Config = AlignedConfig

    def fit(self, problem: Problem, ctx: RunContext, config: AlignedConfig) -> CompactPosterior:
        from methods.hmc_rebasin.fit import fit_prior_control

        return fit_prior_control(problem, ctx, config)


def _shared(config: RebasinConfig, part: type[SummaryConfig]) -> dict[str, Any]:
    """The settings that a control has, too, as far as they differ from its defaults."""
    values = {name: getattr(config, name) for name in part.model_fields if name != "preset"}
    return {name: value for name, value in values.items() if value != part.model_fields[name].default}
