"""Codewords: what the members of a cluster share, as the numbers that are trained and stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.moments import SMALLEST_VARIANCE, Moments

Kind = Literal["1d", "2d"]


class Codebook(ABC):
    """table: (rows, K) floating point, the trained numbers of K codewords.

    Every formula is differentiable with respect to the table, in its dtype.
    """

    rows: ClassVar[int]
    noise_rows: ClassVar[int]
    """Standard normal numbers that one draw shared by a whole cluster takes."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __len__(self) -> int:
        return self.table.shape[1]

    @abstractmethod
    def marginals(self) -> tuple[Tensor, Tensor]:
        """(a, ln b), each (K,): mean and log deviation of x = w/r of a member."""

    @abstractmethod
    def shared_draws(self, noise: Tensor) -> Tensor:
        """z (K,): one draw of x per cluster, from standard normal `noise` (noise_rows, K)."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """(K,): entropy of x, or a lower bound of it, up to 1/2 + ln(2 pi)/2."""


class Codebook1d(Codebook):
    """Rows a, ln b: x ~ N(a, b^2)."""

    rows = 2
    noise_rows = 1

    @classmethod
    def of(cls, clusters: Moments) -> Codebook1d:
        """Of least summed KL divergence from the members, float64."""
        a, variance = clusters.codewords()
        return cls(torch.stack([a, variance.log() / 2]))

    def marginals(self) -> tuple[Tensor, Tensor]:
        a, log_b = self.table.unbind()
        return a, log_b

    def shared_draws(self, noise: Tensor) -> Tensor:
        a, log_b = self.marginals()
        return a + log_b.exp() * noise[0]

    def entropy(self) -> Tensor:
        return self.table[1]


class Codebook2d(Codebook):
    """Rows m1, m2, t1, t2, t3: (u, v) ~ N(m, L L^T) with L = [[exp t1, 0], [t2, exp t3]], and x ~ N(u, exp(2 v)).

    The moments of x are those of (x, ln s) of a member that N(m, S) describes: a = m1,
    b^2 = S11 + exp(2 m2 + 2 S22).
    """

    rows = 5
    noise_rows = 3

    @classmethod
    def of(cls, clusters: Moments) -> Codebook2d:
        """Mean and biased covariance of the members' (x, ln s), float64; variances are at least 1e-12 of the
        feature's variance over all weights, so that no logarithm is infinite."""
        whole = clusters.pooled(torch.zeros(len(clusters), dtype=torch.int64, device=clusters.n.device), 1)
        floor = SMALLEST_VARIANCE * whole.covariance("x", "l")[0].diagonal().clamp(min=SMALLEST_VARIANCE)
        s = clusters.covariance("x", "l")
        first = s[:, 0, 0].maximum(floor[0])
        slope = s[:, 1, 0] / first.sqrt()
        second = (s[:, 1, 1] - slope.square()).maximum(floor[1])
        means = clusters.mean_of("x"), clusters.mean_of("l")
        return cls(torch.stack([*means, first.log() / 2, slope, second.log() / 2]))

    def marginals(self) -> tuple[Tensor, Tensor]:
        m1, m2, t1, t2, t3 = self.table.unbind()
        s22 = t2.square() + (2 * t3).exp()
        return m1, torch.logaddexp(2 * t1, 2 * m2 + 2 * s22) / 2

    def shared_draws(self, noise: Tensor) -> Tensor:
        m1, m2, t1, t2, t3 = self.table.unbind()
        u = m1 + t1.exp() * noise[0]
        v = m2 + t2 * noise[0] + t3.exp() * noise[1]
        return u + v.exp() * noise[2]

    def entropy(self) -> Tensor:
        return self.table[1]  # entropy is concave: that of the mixture is at least the mean one, E[v] = m2


CODEBOOKS: dict[Kind, type[Codebook1d] | type[Codebook2d]] = {"1d": Codebook1d, "2d": Codebook2d}


def codebook_of(table: Tensor) -> Codebook:
    """The codebook whose table this is, told by its rows.

    Raises:
        ValueError: neither 2 nor 5 rows, or no column.
    """
    if table.ndim == 2 and table.shape[1] > 0:
        for codebook in CODEBOOKS.values():
            if table.shape[0] == codebook.rows:
                return codebook(table)
    raise ValueError(f"a codebook has 2 or 5 rows and at least one column, not shape {tuple(table.shape)}")
