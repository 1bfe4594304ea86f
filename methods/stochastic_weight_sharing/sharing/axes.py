"""The plane (x, l), l = ln s, in standard units: zero mean and unit variance over all weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.moments import Moments

CONSTANT = 1e-12
"""A feature whose variance is below this, relative to 1 + mean^2, does not vary beyond rounding."""


@dataclass(frozen=True)
class Axes:
    """z = ((x, l) - centre) / scale; centre, scale: (2,) float64. A feature that does not vary keeps its unit."""

    centre: Tensor
    scale: Tensor

    @classmethod
    def of(cls, moments: Moments) -> Axes:
        """The axes in which the members of all groups together have mean 0 and variance 1."""
        every = Moments(moments.table.sum(1, keepdim=True))
        centre = torch.cat([every.mean_of("x"), every.mean_of("l")])
        variance = every.covariance("x", "l")[0].diagonal()
        varies = variance > CONSTANT * (1 + centre.square())
        return cls(centre, torch.where(varies, variance, 1.0).sqrt())

    def sums(self, moments: Moments) -> Tensor:
        """(6, M) float64: sums of 1, z1, z2, z1^2, z2^2, z1 z2 over the members of each group."""
        (c1, c2), (r1, r2) = self.centre, self.scale
        n, x, log_s = moments.n, moments.sum_of("x"), moments.sum_of("l")
        first, second = x - n * c1, log_s - n * c2
        squares = moments.sum_of("xx") - c1 * (x + first), moments.sum_of("ll") - c2 * (log_s + second)
        product = moments.sum_of("xl") - c1 * log_s - c2 * first
        return torch.stack([n, first / r1, second / r2, squares[0] / r1**2, squares[1] / r2**2, product / (r1 * r2)])

    def quadratic(self, x: Tensor, s: Tensor) -> Tensor:
        """(6, m) float64: 1, z1, z2, z1^2, z2^2, z1 z2 of points x, s (m,)."""
        first = (x.double() - self.centre[0]) / self.scale[0]
        second = (s.double().log_() - self.centre[1]) / self.scale[1]
        return torch.stack([torch.ones_like(first), first, second, first**2, second**2, first * second])


def rows_at_a_time(groups: int, device: torch.device) -> int:
    """Rows of a (rows, groups) float64 table that stay in the processor's cache, or that fill a GPU."""
    elements = 1 << (18 if device.type == "cpu" else 24)
    return max(1, elements // groups)
