"""Between the curvature h that IVON keeps of each weight and psi, the logarithm of its standard deviation.

IVON's Gaussian has the variance 1/(N (h + lambda)): h estimates the second derivative of the mean loss, and lambda is
that of the prior's term (Shen et al., ICML 2024, arXiv 2402.17641, algorithm 1). At h = 0 sigma is the prior's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from methods.mean_field.prior import Prior
from methods.mean_field.sigma import Initial

FORGOTTEN = 2.0
"""How many times a fit is as long as the memory of the curvature's running average."""
SMALLEST = 1e-4
"""Curvature that every tensor starts with at least: IVON's step is relative to it."""


def starting_curvatures(sigma: Initial, prior: Prior) -> dict[str, float]:
    """h of every tensor, 1/(N sigma^2) - lambda but at least 1e-4, where each tensor's starting psi is one number."""
    return {
        name: max(SMALLEST, math.exp(-2 * float(psi)) / prior.n_data - prior.lam) for name, psi in sigma.log_sd.items()
    }


def starting_log_sd(curvatures: Mapping[str, float], prior: Prior, clipped: float = 0.0) -> Initial:
    """psi, float64 (), of tensors that start with these curvatures. clipped: see `Initial`."""
    psi = {name: log_sd_of(torch.tensor(h, dtype=torch.float64), prior) for name, h in curvatures.items()}
    return Initial(psi, clipped)


def log_sd_of(curvature: Tensor, prior: Prior) -> Tensor:
    """psi = -ln(N (h + lambda))/2, element by element."""
    return (curvature + prior.lam).mul_(prior.n_data).log_().mul_(-0.5)


def decay_for(steps: int) -> float:
    """beta2 of the curvature's running average, clip(1 - 2/steps, 0.9, 0.99999).

    Where the data say nothing, the start decays by exp(-2) in a fit, and ln sigma grows by 1 nat, as far as the default
    `travel` of `mean_field` lets it. Faster forgetting (1 - 5/steps) makes sigma useless on small tasks that the base
    network fits perfectly: on digits, with 108 steps, it cost a DeiT 13 points of accuracy.
    """
    return min(max(1 - FORGOTTEN / steps, 0.9), 0.99999)
