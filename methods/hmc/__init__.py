"""`hmc`: samples of the posterior over weights, by Hamiltonian Monte Carlo or, for large networks, its stochastic kin.

This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmark import Method, Need, Posterior, Problem, RunContext, TaskInfo
from methods.hmc.config import SamplingConfig

if TYPE_CHECKING:
    from torch import nn

    from methods.hmc.posterior import ChainSamples


class Hmc(Method):
    """Stored states of several chains, with diagnostics that say whether they deserve to be the standard.

    Neal: MCMC using Hamiltonian dynamics, arXiv 1206.1901; Izmailov et al.: What are Bayesian neural network posteriors
    really like?, ICML 2021; for stochastic gradients Chen, Fox, Guestrin, ICML 2014, and Zhang et al., ICLR 2020.
    """

    name = "hmc"
    Config = SamplingConfig
    reference = True
    preload = ("arviz_stats",)

    def settled(self, config: SamplingConfig, task: TaskInfo, network: Callable[[], nn.Module]) -> SamplingConfig:
        """Sampler, start and lengths by the number of parameters and examples."""
        from methods.hmc.tiers import is_settled, settled

        if is_settled(config):
            return config
        return settled(config, sum(value.numel() for value in network().parameters()), task.n_train)

    def title(self, config: SamplingConfig, needed: Sequence[Need]) -> str:
        """Stochastic gradients without a Metropolis step are not to be taken for HMC."""
        return "sghmc" if config.sampler == "sghmc" else self.name

    def needs(self, config: SamplingConfig) -> tuple[Need, ...]:
        takes_prior = config.prior_std == "map" or (config.prior_std == "auto" and config.sampler == "sghmc")
        return (Need("map"),) if config.init == "map" or takes_prior else ()

    def fit(self, problem: Problem, ctx: RunContext, config: SamplingConfig) -> ChainSamples:
        """Runs the chains, diagnoses them, draws the figure `sampling`."""
        from methods.hmc.fit import fit_hmc

        return fit_hmc(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from methods.hmc.posterior import ChainSamples

        return ChainSamples
