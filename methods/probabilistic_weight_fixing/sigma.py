"""Where sigma starts: near 0 at powers of two, which are values to be fixed to, larger between them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.probabilistic_weight_fixing.settings import SIGMA_FLOOR, FixingSettings

CONSTANT_SIGMA = 1e-4
SMALLEST_QUANTILE = 2.0**-40
"""Of a tensor's distances: where most weights are powers of two, it would be 0."""


def initial_sigma(mu: Tensor, settings: FixingSettings) -> Tensor:
    """sigma float32, of the shape of one parameter's tensor `mu`; each parameter has a scale of its own.

    pow2: clip(sigma_scale r / Q, 2^-30, sigma_max) with r of `power_of_two_distance` and Q its sigma_quantile over the
    weights other than 0, at least 2^-40. A weight of 0 has 2^-30. constant: 1e-4.
    """
    if settings.sigma_init == "constant":
        return torch.full_like(mu, CONSTANT_SIGMA, dtype=torch.float32)
    distance = power_of_two_distance(mu)
    nonzero = distance.flatten()[mu.flatten() != 0]
    if not len(nonzero):
        return torch.full_like(distance, SIGMA_FLOOR)
    scale = max(quantile(nonzero, settings.sigma_quantile), SMALLEST_QUANTILE)
    return distance.mul_(settings.sigma_scale / scale).clamp_(SIGMA_FLOOR, settings.sigma_max)


def power_of_two_distance(mu: Tensor) -> Tensor:
    """r float32, of mu's shape: relative distance to the power of two above times that to the one below.

    r = f (1 - f) / (1 + f)^2 for |mu| = 2^k (1 + f), 0 <= f < 1; r(0) = 0. At most 1/8, at f = 1/3.
    """
    half = torch.frexp(mu.detach().float().abs()).mantissa  # (1 + f) / 2
    f = 2 * half - 1
    r = f.mul_(1 - f).div_(half.square_().mul_(4))
    return r.masked_fill_(mu == 0, 0)


def quantile(values: Tensor, q: float) -> float:
    """The q-quantile of values (n,), n >= 1, linear between order statistics.

    `torch.quantile` refuses more than 2^24 elements.
    """
    position = q * (len(values) - 1)
    below = math.floor(position)
    low = float(values.kthvalue(below + 1).values)
    if position == below:
        return low
    return low + (position - below) * (float(values.kthvalue(below + 2).values) - low)
