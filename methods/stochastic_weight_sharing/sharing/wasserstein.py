"""Merging of near-identical clusters by 2-Wasserstein distance (Lin et al., AISTATS 2025, arXiv 2505.17856).

For S = [[a, b], [b, c]] let v = (a - c, 2 b, 2 sqrt(det S)); then |v| = tr S, and for 2 x 2 covariances
    tr(S1 S2) + 2 sqrt(det S1 det S2) = (|v1| |v2| + v1 v2) / 2,
    W2^2 = |m1 - m2|^2 + N / (T + sqrt(T^2 - N)),    T = |v1| + |v2|,  N = |v1 - v2|^2,
which is the closed form |m1 - m2|^2 + tr S1 + tr S2 - 2 sqrt(tr(S1 S2) + 2 sqrt(det S1 det S2)) without its
cancellation: no matrix root, and exactly 0 for equal Gaussians.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.moments import Moments
from methods.stochastic_weight_sharing.sharing.settings import SharingSettings

PAIRS = 1 << 15
"""Pairs at a time: all their temporaries stay in the processor's cache."""


def squared_distance(m1: Tensor, S1: Tensor, m2: Tensor, S2: Tensor) -> Tensor:
    """W2^2 (...) float64 of N(m1, S1) and N(m2, S2): means (..., 2), covariances (..., 2, 2), broadcast."""
    return _between(_embedded(m1, S1).unbind(-1), _embedded(m2, S2).unbind(-1))


def _embedded(m: Tensor, S: Tensor) -> Tensor:
    """(..., 6) float64: m, v and |v|."""
    m, S = m.double(), S.double()
    a, b, c = S[..., 0, 0], S[..., 0, 1], S[..., 1, 1]
    v = torch.stack([a - c, 2 * b, 2 * (a * c - b * b).clamp(min=0).sqrt()], dim=-1)
    return torch.cat([m.expand(*v.shape[:-1], 2), v, v.norm(dim=-1, keepdim=True)], dim=-1)


def _between(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    """W2^2 of embedded Gaussians, each six tensors that broadcast with those of the other."""
    apart = (first[0] - second[0]).square_().add_((first[1] - second[1]).square_())
    shape = (first[2] - second[2]).square_()
    for one, other in zip(first[3:5], second[3:5], strict=True):
        shape.add_((one - other).square_())
    traces = first[5] + second[5]
    inner = (traces.square() - shape).clamp_(min=torch.finfo(torch.float64).tiny)
    root = inner.rsqrt().mul_(inner)  # sqrt would start threads from 2048 numbers on, which costs more than it does
    return apart.add_(shape.div_(root.add_(traces)))


def merge_near(clusters: Moments, gradients: Tensor | None, settings: SharingSettings) -> Tensor:
    """Cluster (K,) int64 -> merged cluster, numbered without gaps: greedily the nearest admissible pair, until no pair
    is admissible.

    In the plane (x, s). Admissible: W2 < tau_d, or < kappa sqrt(b_i b_j) where tau_d is None; predicted change of the
    mean cross-entropy |g_i (a_m - a_i) + g_j (a_m - a_j)| < tau_g; |ln b_i - ln b_j| < tau_v. gradients: g (K,), sums
    of the members' mean gradients with respect to x; without them, or without tau_g, that test is left out.
    """
    merging = _Merging(clusters, gradients, settings)
    group = list(range(len(clusters)))
    for kept, gone in reversed(list(merging.merges())):
        group[gone] = group[kept]
    merged: Tensor = torch.tensor(group, device=clusters.table.device).unique(return_inverse=True)[1]
    return merged


class _Merging:
    """Clusters as they merge, on the CPU. A merged cluster takes the place of one of its two.

    The queue holds for every cluster its nearest admissible partner at the time when it was last looked at. The pair
    (i, j) was looked at when the later of the two was, so the least entry of living clusters is the least pair, and
    once the queue is empty there is none.
    """

    def __init__(self, clusters: Moments, gradients: Tensor | None, settings: SharingSettings) -> None:
        self.settings = settings
        self.table = clusters.table.cpu().clone()
        use_gradients = gradients is not None and settings.tau_g is not None
        self.gradient = gradients.double().cpu().clone() if gradients is not None and use_gradients else None
        self.features = _features(Moments(self.table))
        self.version = [0] * len(clusters)
        self.alive = torch.ones(len(clusters), dtype=torch.bool)
        self.queue: list[tuple[float, int, int, int, int]] = []

    def merges(self) -> Iterator[tuple[int, int]]:
        """Pairs (place that is kept, place that is given up), in order."""
        for rows in torch.arange(len(self.version)).split(max(1, PAIRS // len(self.version))):
            self._look_at(rows)
        while self.queue:
            _, i, version, j, version_j = heapq.heappop(self.queue)
            if version != self.version[i]:
                continue
            if version_j == self.version[j]:
                self._merge(i, j)
                yield i, j
            self._look_at(torch.tensor([i]))

    def _merge(self, i: int, j: int) -> None:
        self.table[:, i] += self.table[:, j]
        self.features[:, i] = _features(Moments(self.table[:, i : i + 1]))[:, 0]
        if self.gradient is not None:
            self.gradient[i] += self.gradient[j]
        self.alive[j] = False
        for place in (i, j):
            self.version[place] += 1

    def _look_at(self, rows: Tensor) -> None:
        """Queue the nearest admissible partner of each of these clusters."""
        nearest, partner = self._squared_where_admissible(rows).min(dim=1)
        for value, i, j in zip(nearest.tolist(), rows.tolist(), partner.tolist(), strict=True):
            if value < math.inf:
                heapq.heappush(self.queue, (value, i, self.version[i], j, self.version[j]))

    def _squared_where_admissible(self, rows: Tensor) -> Tensor:
        """W2^2 (rows, K), infinite where the pair must not merge."""
        own = self.features[:, rows, None]
        squared = _between(own[:6].unbind(), self.features[:6].unbind())
        tau_d = self.settings.tau_d
        limit = tau_d * tau_d if tau_d is not None else (self.settings.kappa**2 * own[6]) * self.features[6]
        refused = (squared >= limit).logical_or_(~self.alive)
        if self.settings.tau_v is not None:
            refused |= (own[7] - self.features[7]).abs_() >= self.settings.tau_v
        if self.gradient is not None and self.settings.tau_g is not None:
            refused |= self._predicted_change(rows) >= self.settings.tau_g
        refused.scatter_(1, rows[:, None], True)
        return squared.masked_fill_(refused, math.inf)

    def _predicted_change(self, rows: Tensor) -> Tensor:
        """|g_i (a_m - a_i) + g_j (a_m - a_j)| = |g_i n_j - g_j n_i| |a_j - a_i| / (n_i + n_j), (rows, K)."""
        assert self.gradient is not None
        n, a = self.table[0], self.features[0]
        cross = self.gradient[rows, None] * n - n[rows, None] * self.gradient
        return (cross * (a[rows, None] - a) / (n[rows, None] + n)).abs_()


def _features(clusters: Moments) -> Tensor:
    """(8, K): the six of `_embedded` in the plane (x, s), b and ln b."""
    means = torch.stack([clusters.mean_of("x"), clusters.mean_of("s")], dim=-1)
    _, variance = clusters.codewords()
    embedded = _embedded(means, clusters.covariance("x", "s")).T
    return torch.cat([embedded, variance.sqrt()[None], variance.log()[None] / 2])
