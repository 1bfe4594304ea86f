"""The Gaussian prior over the weights, and the KL divergence to it in numbers of clusters instead of weights.

With p_i the prior's deviation of weight i and r_i its scale, the members of cluster k enter through
    n_k,   Lambda_k = sum r_i^2 / p_i^2,   C_k = sum ln(p_i / r_i) - n_k/2
alone, which are counted once. Independent weights:
    KL = sum_k [ -n_k ln b_k + Lambda_k (a_k^2 + b_k^2)/2 + C_k ]   + the same per ellipse point and per outlier.
Tied weights have no density in all directions; the prior is restricted to their subspace, up to a constant:
    KL = sum_k [ -ln b_k + Lambda_k (a_k^2 + b_k^2)/2 ] + sum_E (r_i/p_i)^2 (A_i^2 + V_i)/2   + KL of the outliers,
with -m_k2 in place of -ln b_k where the codebook is over (mu, ln sigma): an upper bound, by convexity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmark import ConfigError
from methods.stochastic_weight_sharing.labelling import Labelling
from methods.stochastic_weight_sharing.sampler import Independent, Sampler

TiedPrior = Literal["restricted", "weak"]


@dataclass(frozen=True)
class SharingPrior:
    """N(0, p^2) per weight; the loss is mean CE + kl_weight KL / n_data.

    scales: p > 0 by name. n_data: D, training examples. tied: the prior of tied codewords; `restricted` is the
    weights' own on their subspace, `weak` counts a cluster like one mean weight.
    """

    scales: Mapping[str, float]
    n_data: int
    kl_weight: float = 1.0
    tied: TiedPrior = "restricted"

    def __post_init__(self) -> None:
        for name, scale in self.scales.items():
            if not scale > 0:
                raise ConfigError(f"the prior's scale of '{name}' is {scale}; it must be positive")

    @property
    def rate(self) -> float:
        """lambda / D, what the KL is multiplied by in the loss."""
        return self.kl_weight / self.n_data


class Divergence:
    """KL to the prior in nats, of what `sampler` draws, over all N weights; for tied weights without its constant.

    n, pull, constant: n_k, Lambda_k and C_k, float64 (K,); see the module.
    """

    def __init__(self, prior: SharingPrior, sampler: Sampler) -> None:
        self._sampler, self._gaussians = sampler, sampler.gaussians
        self._independent = isinstance(sampler, Independent)
        labelling = self._gaussians.labelling
        self.n, self.pull, self.constant = self._independent_terms(prior, labelling)
        if not self._independent:
            if prior.tied == "weak":
                self.pull = self._weak_pull(prior, labelling)
            self.n, self.constant = torch.ones_like(self.n), torch.zeros_like(self.n)
        ratio = {name: labelling.scale[name] / prior.scales[name] for name in labelling.shapes}
        self._ellipse_pull = labelling.ellipses.spread(ratio).square()
        self._outlier_scale = labelling.outliers.spread(prior.scales)

    def __call__(self) -> Tensor:
        """() float64, differentiable with respect to the trained numbers."""
        g = self._gaussians
        a, log_b = (tensor.double() for tensor in g.codebook.marginals())
        entropy = log_b if self._independent else g.codebook.entropy().double()
        variance = (2 * log_b).exp()
        clusters = self.pull * (a.square() + variance) / 2 - self.n * entropy + self.constant
        return clusters.sum() + self._of_ellipses(a, variance) + self._of_outliers()

    def _of_ellipses(self, a: Tensor, variance: Tensor) -> Tensor:
        mean, spread = self._sampler.ellipse_moments(a, variance)
        quadratic = self._ellipse_pull * (mean.square() + spread) / 2
        if self._independent:
            quadratic = quadratic - ((self._ellipse_pull * spread).log() + 1) / 2
        return quadratic.sum()

    def _of_outliers(self) -> Tensor:
        mean, log_sd = self._gaussians.outlier_mean.double(), self._gaussians.outlier_log_sd.double()
        p = self._outlier_scale
        return (p.log() - log_sd + ((2 * log_sd).exp() + mean.square()) / (2 * p.square()) - 0.5).sum()

    @staticmethod
    def _independent_terms(prior: SharingPrior, labelling: Labelling) -> tuple[Tensor, Tensor, Tensor]:
        n, pull, constant = torch.zeros(3, labelling.components, dtype=torch.float64, device=labelling.symbols.device)
        for name, counts in labelling.counts():
            ratio = labelling.scale[name] / prior.scales[name]
            n += counts
            pull += counts * ratio**2
            constant -= counts * (math.log(ratio) + 0.5)
        return n, pull, constant

    def _weak_pull(self, prior: SharingPrior, labelling: Labelling) -> Tensor:
        """1 / mean(p_i / r_i)^2 (K,); 0 for a cluster whose members are all drawn by themselves."""
        total = torch.zeros_like(self.n)
        for name, counts in labelling.counts():
            total += counts * (prior.scales[name] / labelling.scale[name])
        return (self.n / total.clamp(min=torch.finfo(total.dtype).tiny)).square()
