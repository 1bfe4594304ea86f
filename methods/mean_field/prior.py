"""The Gaussian prior and the KL divergence to it: gradients by hand, the value for the log.

q = N(mu, diag(exp(2 psi))), prior N(m0, s0^2) with s0^2 = 1/(lambda N). Per weight
    KL = ((mu - m0)^2 + exp(2 psi)) / (2 s0^2) - 1/2 - psi + ln s0,
and what is added to the gradients of the mean cross-entropy, t being the KL temperature, is
    d/d mu  t KL/N = t lambda (mu - m0),        d/d psi t KL/N = t (lambda exp(2 psi) - 1/N)
(BayesAdapter, arXiv 2010.01979, eq. 5, there as gradients of the maximised bound). Nothing is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.finetuning.flat import Flat, chunks

LOWEST_PSI = -20.0
"""sigma 2e-9: nothing of it is left in float32."""
HEADROOM = 0.5
"""Nats by which psi may exceed the value at which it settles without data."""


@dataclass(frozen=True)
class Prior:
    """lam: lambda > 0. n_data: N >= 1. temperature: t. mean: m0 by name, or None for zero."""

    lam: float
    n_data: int
    temperature: float = 1.0
    mean: Mapping[str, Tensor] | None = None

    @property
    def log_sd(self) -> float:
        """ln s0, which is also where psi settles without data."""
        return -0.5 * math.log(self.lam * self.n_data)

    def add_mean_gradient(self, gradients: list[Tensor], means: Mapping[str, Tensor]) -> None:
        """Add t lambda (mu - m0) to `gradients`, which are in the order of `means`. In place."""
        if not gradients:
            return
        rate = self.temperature * self.lam
        torch._foreach_add_(gradients, list(means.values()), alpha=rate)
        if self.mean is not None:
            torch._foreach_add_(gradients, [self.mean[name] for name in means], alpha=-rate)

    def add_log_sd_gradient(self, gradient: Tensor, log_sd: Tensor) -> None:
        """Add t (lambda exp(2 psi) - 1/N) to the `gradient` (D, ...) of `log_sd` (D, ...). In place."""
        for part, psi in chunks(gradient, log_sd):
            variance = psi.mul(2).exp_()
            part.add_(variance, alpha=self.temperature * self.lam).sub_(self.temperature / self.n_data)

    def kl_over_n(self, mean: Flat, log_sd: Flat) -> tuple[float, float]:
        """KL/N in nats (not tempered), summed over all tensors, and without those of fewer than two dimensions,
        which BayesAdapter's own logs leave out."""
        total = matrices = 0.0
        for name, psi in log_sd.views.items():
            centre = None if self.mean is None else self.mean[name].reshape(-1)
            kl = self._kl(mean.views[name].reshape(-1), psi.reshape(-1), centre) / self.n_data
            total += kl
            matrices += kl if psi.dim() >= 2 else 0.0
        return total, matrices

    def _kl(self, mean: Tensor, log_sd: Tensor, centre: Tensor | None) -> float:
        total = torch.zeros((), dtype=torch.float64, device=mean.device)
        for mu, psi, m0 in chunks(mean, log_sd, mean if centre is None else centre):
            away = mu.double() if centre is None else mu.double() - m0.double()
            spread = away.square() + psi.double().mul(2).exp()
            total += spread.sum() * (self.lam * self.n_data / 2) - psi.sum(dtype=torch.float64)
        return float(total) + mean.numel() * (self.log_sd - 0.5)


def log_sd_limits(prior: Prior) -> tuple[float, float]:
    """What psi is kept within when it is clamped."""
    return LOWEST_PSI, prior.log_sd + HEADROOM
