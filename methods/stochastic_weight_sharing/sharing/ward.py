"""Ward's agglomerative clustering (1963) with the KL divergence: always the pair whose union costs least."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import ConfigError
from methods.stochastic_weight_sharing.sharing.moments import Moments


@dataclass(frozen=True)
class Dendrogram:
    """The merges of K0 clusters, in order; any number of groups from K0 - len(merges) to K0 is a cut of it.

    merges: (m, 2) int64; clusters are 0..K0-1, the union of merge t is K0 + t. costs: (m,) float64, the rise of the
    summed KL in nats by each merge, >= 0 (not always rising: a union may be closer to a third than its parts were).
    """

    leaves: int
    merges: Tensor
    costs: Tensor

    @classmethod
    def of(cls, clusters: Moments, down_to: int = 1) -> Dendrogram:
        """Greedy merging down to `down_to` groups. No cluster is empty."""
        merges, costs = _Forest(clusters).merged(down_to)
        device = clusters.table.device
        return cls(len(clusters), torch.from_numpy(merges).to(device), torch.from_numpy(costs).to(device))

    def cut(self, k: int) -> Tensor:
        """(K0,) int64: the group of each cluster when there are k, numbered 0..k-1 without gaps.

        Raises:
            ConfigError: k is above K0 or below where merging stopped.
        """
        lowest = self.leaves - len(self.merges)
        if not lowest <= k <= self.leaves:
            raise ConfigError(f"a cut at {k} groups is not in the dendrogram, which has {lowest} to {self.leaves}")
        done = self.merges[: self.leaves - k]
        parent = torch.arange(self.leaves + len(done), device=done.device)
        parent[done.flatten()] = torch.arange(self.leaves, len(parent), device=done.device).repeat_interleave(2)
        for _ in range(len(parent).bit_length()):  # each round doubles the steps towards the root
            parent = parent[parent]
        _, groups = torch.unique(parent[: self.leaves], return_inverse=True)
        return torch.as_tensor(groups)


class _Forest:
    """Groups that are still to be merged, in the first `size` columns of arrays; a group that goes is overwritten by
    the last. Groups have identities that are never used again, so an entry of the heap is out of date exactly if one
    of its two is gone."""

    def __init__(self, clusters: Moments) -> None:
        a, variance = (value.cpu().numpy() for value in clusters.codewords())
        n = clusters.n.cpu().numpy()
        self.groups = np.stack([n, a, variance, n * np.log(variance)])  # (4, K0): n, a, b^2, n ln b^2
        self.size = len(n)
        self.identity = np.arange(self.size)
        self.place = {group: group for group in range(self.size)}  # identity -> column

    def merged(self, down_to: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(merges, costs) of `Dendrogram`.

        The heap holds, for each group, its nearest partner among those that were there when it was looked for: every
        pair is covered by the younger of the two. An entry whose partner is gone is too low at worst, so it is found
        and replaced before it matters.
        """
        leaves = self.size
        heap = [self._entry(column, column) for column in range(1, leaves)]
        heapq.heapify(heap)
        merges: list[tuple[int, int]] = []
        costs: list[float] = []
        while self.size > max(1, down_to):
            cost, group, partner = heapq.heappop(heap)
            if group not in self.place:
                continue
            if partner in self.place:
                merges.append((partner, group))
                costs.append(cost)
                self._unite(partner, group, leaves + len(merges) - 1)
                group = leaves + len(merges) - 1
            if self.size > 1:
                heapq.heappush(heap, self._entry(self.place[group], self.size))
        return np.array(merges, dtype=np.int64).reshape(-1, 2), np.array(costs, dtype=np.float64)

    def _entry(self, column: int, among: int) -> tuple[float, int, int]:
        """(cost, group, its nearest partner among the first so many columns)."""
        costs = self._costs(column, among)
        if column < among:
            costs[column] = np.inf
        nearest = int(costs.argmin())
        return float(costs[nearest]), int(self.identity[column]), int(self.identity[nearest])

    def _costs(self, column: int, among: int) -> NDArray[np.float64]:
        """Rise of the summed KL by the union with each of the first columns: 1/2 (n ln b^2 - n_i ln b_i^2 - n_j ln
        b_j^2), b^2 of the union by the law of total variance, free of cancellation."""
        n, _, variance = _union(self.groups[:, :among], self.groups[:, column])
        costs: NDArray[np.float64] = (n * np.log(variance) - self.groups[3, :among] - self.groups[3, column]) / 2
        return np.maximum(costs, 0.0, out=costs)

    def _unite(self, first: int, second: int, union: int) -> None:
        kept, gone = self.place.pop(first), self.place.pop(second)
        n, a, variance = _union(self.groups[:, kept], self.groups[:, gone])
        self.groups[:, kept] = n, a, variance, n * np.log(variance)
        self.identity[kept], self.place[union] = union, kept
        self.size -= 1
        if gone != self.size:
            self.groups[:, gone] = self.groups[:, self.size]
            self.identity[gone] = self.identity[self.size]
            self.place[int(self.identity[gone])] = gone


def _union(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[Any, Any, Any]:
    """(n, a, b^2) of the union; one, other: rows n, a, b^2, and more, of any shapes that fit together."""
    n = one[0] + other[0]
    share = other[0] / n
    gap = other[1] - one[1]
    return n, one[1] + share * gap, one[2] + share * (other[2] - one[2]) + share * (1 - share) * gap * gap
