"""The Gaussian prior and the KL divergence to it: gradients by hand, the value for the log.

q = N(mu, diag(exp(2 psi))), prior N(m0, s0^2) with s0^2 = 1/(lambda N); tensors may differ in lambda. Per weight
    KL = ((mu - m0)^2 + exp(2 psi)) / (2 s0^2) - 1/2 - psi + ln s0,
and what is added to the gradients of the mean cross-entropy, t being the KL temperature, is
    d/d mu  t KL/N = t lambda (mu - m0),        d/d psi t KL/N = t (lambda exp(2 psi) - 1/N)
(BayesAdapter, arXiv 2010.01979, eq. 5, there as gradients of the maximised bound). Nothing is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.finetuning.flat import Flat, chunks

LOWEST_PSI = -20.0
"""sigma 2e-9: nothing of it is left in float32."""
HEADROOM = 0.5
"""Nats by which psi may exceed the value at which it settles without data."""


@dataclass(frozen=True)
class Prior:
    """lam: lambda > 0. n_data: N >= 1. temperature: t. mean: m0 by name, or None for zero. scales: s0 by name, which
    then stands in place of 1/sqrt(lambda N)."""

    lam: float
    n_data: int
    temperature: float = 1.0
    mean: Mapping[str, Tensor] | None = None
    scales: Mapping[str, float] | None = None

    @property
    def log_sd(self) -> float:
        """ln s0, which is also where psi settles without data; the largest, where tensors differ."""
        if self.scales is not None:
            return math.log(max(self.scales.values()))
        return -0.5 * math.log(self.lam * self.n_data)

    def lam_of(self, name: str) -> float:
        """lambda of one tensor."""
        return self.lam if self.scales is None else 1 / (self.n_data * self.scales[name] ** 2)

    def add_mean_gradient(self, gradients: list[Tensor], means: Mapping[str, Tensor], ramp: float = 1.0) -> None:
        """Add t lambda (mu - m0) to `gradients`, which are in the order of `means`, times `ramp`. In place."""
        if not gradients:
            return
        t = ramp * self.temperature
        centres = None if self.mean is None else [self.mean[name] for name in means]
        if self.scales is None:
            torch._foreach_add_(gradients, list(means.values()), alpha=t * self.lam)
            if centres is not None:
                torch._foreach_add_(gradients, centres, alpha=-t * self.lam)
            return
        for position, (name, mean) in enumerate(means.items()):
            away = mean if centres is None else mean - centres[position]
            gradients[position].add_(away, alpha=t * self.lam_of(name))

    def add_log_sd_gradient(self, gradient: Tensor, log_sd: Tensor, name: str | None = None, ramp: float = 1.0) -> None:
        """Add t (lambda exp(2 psi) - 1/N) to the `gradient` (D, ...) of `log_sd` (D, ...), times `ramp`. In place.

        name: the tensor that they belong to, None: they are of several tensors of one lambda.
        """
        t = ramp * self.temperature
        lam = self.lam if name is None else self.lam_of(name)
        for part, psi in chunks(gradient, log_sd):
            variance = psi.mul(2).exp_()
            part.add_(variance, alpha=t * lam).sub_(t / self.n_data)

    def add_log_sd_gradients(self, gradient: Tensor, log_sd: Flat, ramp: float = 1.0) -> None:
        """As `add_log_sd_gradient`, for all tensors at once; gradient: flat (D,)."""
        if self.scales is None:
            self.add_log_sd_gradient(gradient, log_sd.flat, ramp=ramp)
            return
        pieces = gradient.split([view.numel() for view in log_sd.views.values()])
        for (name, view), piece in zip(log_sd.views.items(), pieces, strict=True):
            self.add_log_sd_gradient(piece, view.view(-1), name, ramp)

    def kl_over_n(self, mean: Flat, log_sd: Flat) -> tuple[float, float]:
        """KL/N in nats (not tempered), summed over all tensors, and without those of fewer than two dimensions,
        which BayesAdapter's own logs leave out."""
        total = matrices = 0.0
        for name, psi in log_sd.views.items():
            centre = None if self.mean is None else self.mean[name].reshape(-1)
            kl = self._kl(name, mean.views[name].reshape(-1), psi.reshape(-1), centre) / self.n_data
            total += kl
            matrices += kl if psi.dim() >= 2 else 0.0
        return total, matrices

    def _kl(self, name: str, mean: Tensor, log_sd: Tensor, centre: Tensor | None) -> float:
        total = torch.zeros((), dtype=torch.float64, device=mean.device)
        precision = self.lam_of(name) * self.n_data
        for mu, psi, m0 in chunks(mean, log_sd, mean if centre is None else centre):
            away = mu.double() if centre is None else mu.double() - m0.double()
            spread = away.square() + psi.double().mul(2).exp()
            total += spread.sum() * (precision / 2) - psi.sum(dtype=torch.float64)
        return float(total) + mean.numel() * (-0.5 * math.log(precision) - 0.5)


def log_sd_limits(prior: Prior) -> tuple[float, float]:
    """What psi is kept within when it is clamped."""
    return LOWEST_PSI, prior.log_sd + HEADROOM


def kl_weight(temperature: Literal["auto"] | float, n_data: int, weights: int) -> float:
    """t as given; auto: min(1, N / (4 D)) for D Bayesian weights.

    The full KL term of far more weights than data outweighs the data: sigma is then the prior's wherever the curvature
    is small, and the network underfits.
    """
    return min(1.0, n_data / (4 * weights)) if temperature == "auto" else temperature


def layer_scales(tensors: Mapping[str, Tensor], lam: float, n_data: int) -> dict[str, float]:
    """s0 by name: the standard deviation of each tensor; 1/sqrt(lambda N) where it has none (constant tensors)."""
    found = {name: float(tensor.double().std(correction=0)) for name, tensor in tensors.items()}
    return {name: sd if sd > 0 else 1 / math.sqrt(lam * n_data) for name, sd in found.items()}
