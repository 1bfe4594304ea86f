"""`mc_dropout`: dropout kept at prediction time, as a distribution over weights (Gal and Ghahramani 2016).

This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark import Method, Problem, RunContext
from methods.mc_dropout.config import McDropoutConfig

if TYPE_CHECKING:
    from methods.mc_dropout.posterior import DropoutPosterior


class McDropout(Method):
    """Trained from initialisation with the recipe of `map` and dropout on layer inputs; every draw is one mask.

    Gal, Ghahramani: Dropout as a Bayesian approximation, ICML 2016. Whole channels are dropped in convolutions
    (Gal, Ghahramani: Bayesian CNNs with Bernoulli approximate variational inference, 2016, arXiv 1506.02158).
    """

    name = "mc_dropout"
    Config = McDropoutConfig

    def fit(self, problem: Problem, ctx: RunContext, config: McDropoutConfig) -> DropoutPosterior:
        """q(W) = M diag(z) / (1 - p) with z ~ Bernoulli(1 - p) on the input channels of the chosen layers.

        Raises:
            Diverged: the loss or a weight became non-finite.
            ConfigError: the network has no layer that `where` stands for.
        """
        from methods.mc_dropout.fit import fit_dropout

        return fit_dropout(problem, ctx, config)

    def posterior_type(self) -> type[DropoutPosterior]:
        from methods.mc_dropout.posterior import DropoutPosterior

        return DropoutPosterior
