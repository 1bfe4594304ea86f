"""The weights that are still free, gathered so that every phase passes over them alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.fixed_weights.fixing import Fixing

BLOCK_CPU, BLOCK_GPU = 1 << 17, 1 << 23
"""Weights per block: on a CPU, a block's temporaries stay in the cache; on a GPU, launches are what costs."""
DISTANCE_FLOOR = 2.0**-20
"""Least sigma that distances are measured in."""


@dataclass
class Free:
    """n free weights in flat order. mu, sigma: (n,) float32, copies. index: (n,) int32, their positions among all."""

    mu: Tensor
    sigma: Tensor
    index: Tensor

    @classmethod
    def of(cls, weights: Fixing) -> Free:
        n = len(weights) - int(torch.count_nonzero(weights.fixed))
        mu, sigma = (torch.empty(n, dtype=torch.float32, device=weights.mu.device) for _ in range(2))
        free = cls(mu, sigma, torch.empty(n, dtype=torch.int32, device=mu.device))
        start = 0
        for block in blocks(len(weights), mu.device):
            own = positions(~weights.fixed[block])
            to = slice(start, start + len(own))
            torch.index_select(weights.mu[block], 0, own, out=mu[to])
            torch.index_select(weights.deviations[block], 0, own, out=sigma[to])
            free.index[to] = own.add_(block.start)
            start = to.stop
        return free

    def __len__(self) -> int:
        return len(self.mu)

    def blocks(self) -> Iterator[slice]:
        return blocks(len(self), self.mu.device)

    def drop(self, label: Tensor) -> None:
        """Let those with a label, (n,), >= 0 go. Moves the others to the front of the same memory."""
        start = 0
        for block in self.blocks():
            own = positions(label[block] < 0)
            to = slice(start, start + len(own))
            for values in (self.mu, self.sigma, self.index):
                values[to] = values[block].index_select(0, own)
            start = to.stop
        self.mu, self.sigma, self.index = self.mu[:start], self.sigma[:start], self.index[:start]

    def distance(self, own: Tensor, value: float) -> Tensor:
        """D = |mu - value| / max(sigma, 2^-20) of the weights at these positions (m,), float32."""
        mu, sigma = self.mu.index_select(0, own), self.sigma.index_select(0, own)
        return mu.sub_(value).abs_().div_(sigma.clamp_(min=DISTANCE_FLOOR))


def blocks(n: int, device: torch.device) -> Iterator[slice]:
    """Slices that cover range(n)."""
    size = BLOCK_CPU if device.type == "cpu" else BLOCK_GPU
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def positions(mask: Tensor) -> Tensor:
    """(m,) int64, rising, where mask (n,) bool is true. On a CPU by numpy, which takes a fraction of torch's time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(mask.numpy().nonzero()[0])
    return mask.nonzero().squeeze(1)
