"""Gaussian noise on the weights of a training step, and the push that keeps deviations from vanishing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.probabilistic_weight_fixing.settings import SIGMA_FLOOR

Regulariser = Literal["released", "hinge", "none"]


def sample_into(out: Tensor, mu: Tensor, sigma: Tensor, eps: Tensor) -> None:
    """out = mu + eps max(sigma, 2^-30), all (n,)."""
    torch.addcmul(mu, eps, sigma.clamp(min=SIGMA_FLOOR), out=out)


def sigma_gradient(gradient: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """dL/dsigma (n,) from dL/dw (n,) of such a draw; 0 where sigma is not above 2^-30."""
    return gradient * eps * (sigma > SIGMA_FLOOR)


def push(sigma: Tensor, eps: Tensor, form: Regulariser, alpha: float, cutoff: float) -> Tensor:
    """What the regulariser adds to dL/dsigma (n,), never positive: sigma below `cutoff` grows.

    released: -alpha max(0, cutoff - sigma) |eps|, the gradient of alpha/2 max(0, cutoff - sigma)^2 |eps|, as in the
    released code. hinge: -alpha [sigma < cutoff].
    """
    if form == "released":
        return (sigma - cutoff).clamp_(max=0).mul_(eps.abs()).mul_(alpha)
    if form == "hinge":
        return sigma.lt(cutoff).to(sigma.dtype).mul_(-alpha)
    return torch.zeros_like(sigma)
