"""Sums over groups of weights: all that clustering, merging and codewords need to know of their members."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = ("n", "x", "xx", "l", "ll", "xl", "s", "ss", "xs")
SMALLEST_VARIANCE = 1e-12


@dataclass(frozen=True)
class Moments:
    """table: (9, M) float64, the sums of 1, x, x^2, l, l^2, x l, s, s^2, x s over the members of each of M groups.

    x = mu/r, s = sigma/r, l = ln s: see `plane`. A group may be a cell of the grid, a cluster, or a single weight.
    """

    table: Tensor

    def __len__(self) -> int:
        return self.table.shape[1]

    @property
    def n(self) -> Tensor:
        """Members (M,)."""
        return self.table[0]

    def sum_of(self, row: str) -> Tensor:
        """One of the sums (M,), by its name in `ROWS`."""
        return self.table[ROWS.index(row)]

    @property
    def total(self) -> Tensor:
        """T = sum of x^2 + s^2 (M,)."""
        return self.sum_of("xx") + self.sum_of("ss")

    def pooled(self, labels: Tensor, groups: int) -> Moments:
        """The moments of `groups` unions; labels (M,) int64 in [0, groups)."""
        pooled = torch.zeros(len(ROWS), groups, dtype=self.table.dtype, device=self.table.device)
        return Moments(pooled.index_add_(1, labels, self.table))

    def chosen(self, index: Tensor) -> Moments:
        """The moments of some of the groups, by position or mask."""
        return Moments(self.table[:, index])

    def mean_of(self, row: str) -> Tensor:
        """Mean over members (M,); groups without members give NaN."""
        return self.sum_of(row) / self.n

    def codewords(self) -> tuple[Tensor, Tensor]:
        """(a, b^2), each (M,) float64: the Gaussian N(a, b^2) of least summed KL from the members' N(x, s^2).

        a = sum x / n, b^2 = T / n - a^2, at least 1e-12.
        """
        a = self.mean_of("x")
        return a, (self.total / self.n - a.square()).clamp_(min=SMALLEST_VARIANCE)

    def covariance(self, first: str, second: str) -> Tensor:
        """Biased covariances (M, 2, 2) of the pair of features, ("x", "l") or ("x", "s")."""
        a, b = self.mean_of(first), self.mean_of(second)
        out = torch.empty(len(self), 2, 2, dtype=self.table.dtype, device=self.table.device)
        out[:, 0, 0] = self.mean_of(first * 2) - a.square()
        out[:, 1, 1] = self.mean_of(second * 2) - b.square()
        out[:, 0, 1] = out[:, 1, 0] = self.mean_of(first + second) - a * b
        return out


def mean_kl(clusters: Moments) -> float:
    """Mean KL(N(x_i, s_i^2) || N(a_c, b_c^2)) in nats over all members, at the clusters' own codewords.

    = [ sum_k n_k/2 ln b_k^2 - sum_i l_i ] / N, since the quadratic part is matched.
    """
    alive = clusters.chosen(clusters.n > 0)
    _, variance = alive.codewords()
    spread = alive.n * (variance.log() + alive.total / (alive.n * variance) - 1) / 2
    spread -= alive.sum_of("x").square() / (2 * alive.n * variance)
    return float((spread.sum() - alive.sum_of("l").sum()) / alive.n.sum())
