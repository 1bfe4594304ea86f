"""How many free weights admit which candidates: all that the greedy choice of values needs to know of them.

A weight admits the candidates within delta of it, which are neighbours among the sorted ones: two numbers say which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.fixed_weights.grid import SMALL_TABLE
from methods.probabilistic_weight_fixing.free import DISTANCE_FLOOR, Free

MOST_DENSE, MOST_PER_WEIGHT = 1 << 24, 64
"""Counters, in all and per free weight. Where there are more possible kinds, only those that occur are numbered."""


@dataclass(frozen=True)
class Kinds:
    """m kinds of weights, each with its members. On the host, by rising lo.

    lo, hi, members: (m,) int64; weights of the kind admit the candidates lo..hi-1. small: (m,) bool, whether they
    count for 0 whatever they admit. of: (n,) int32 on the weights' device, the number of each free weight's kind, and
    number: (m,) int64, the rising numbers in use, below `numbers`.
    """

    lo: NDArray[np.int64]
    hi: NDArray[np.int64]
    small: NDArray[np.bool_]
    members: NDArray[np.int64]
    of: Tensor
    number: Tensor
    numbers: int

    def expand(self, values: NDArray[Any]) -> Tensor:
        """(n,): each free weight has the value of its kind. values: (m,)."""
        own = torch.from_numpy(values).to(self.of.device)
        table = torch.zeros(self.numbers, dtype=own.dtype, device=own.device)
        table[self.number] = own
        return table.index_select(0, self.of)


def kinds_of(free: Free, codes: NDArray[np.int64], delta: float, b: int, zero_fix: bool) -> Kinds:
    """The kinds of the free weights, for the candidates `codes` (K,), rising, within delta sigmas.

    zero_fix: weights with |mu| < 2^-b are small.
    """
    keys = _Keys(codes, delta, b, zero_fix, free)
    kind = torch.empty(len(free), dtype=torch.int32, device=free.mu.device)
    if keys.count <= min(MOST_DENSE, MOST_PER_WEIGHT * len(free)):
        for block in free.blocks():
            kind[block] = keys.of(free, block)
        members = torch.bincount(kind, minlength=keys.count)
        number = members.nonzero().squeeze(1)
        return keys.split(number, members.index_select(0, number), kind, number, keys.count)
    occurring = torch.cat([keys.of(free, block).unique() for block in free.blocks()]).unique()
    for block in free.blocks():
        kind[block] = torch.searchsorted(occurring, keys.of(free, block), out_int32=True)
    members = torch.bincount(kind, minlength=len(occurring))
    number = torch.arange(len(occurring), device=kind.device)
    return keys.split(occurring, members, kind, number, len(occurring))


def interval(mu: Tensor, sigma: Tensor, delta: float, b: int) -> tuple[Tensor, Tensor]:
    """Least and largest code within delta sigmas of mu: whole numbers (m,) float32, least = largest + 1 for none.

    ceil((mu - r) 2^b) and floor((mu + r) 2^b), r = delta max(sigma, 2^-20), in float32: here that is what |mu - value|
    <= r means.
    """
    r = sigma.clamp(min=DISTANCE_FLOOR).mul_(delta)
    least = (mu - r).mul_(2.0**b).ceil_()
    return least, r.add_(mu).mul_(2.0**b).floor_()


class _Keys:
    """key = 2 (lo (K + 1) + hi) + small of a weight, below `count`; int32 where that holds them, else int64."""

    def __init__(self, codes: NDArray[np.int64], delta: float, b: int, zero_fix: bool, free: Free) -> None:
        self.delta, self.b, self.zero_fix = delta, b, zero_fix
        self.base = len(codes) + 1
        self.count = 2 * self.base**2
        self.dtype = torch.int32 if self.count <= MOST_DENSE else torch.int64
        bound = int(np.abs(codes).max())
        tabled = 2 * bound + 2 <= max(SMALL_TABLE, len(free))  # codes of large weights are far apart
        self.rank = (_Table if tabled else _Search)(codes, free.mu.device)

    def of(self, free: Free, block: slice) -> Tensor:
        """Keys of a block of the free weights."""
        mu = free.mu[block]
        least, largest = interval(mu, free.sigma[block], self.delta, self.b)
        lo, hi = self.rank.below(least).to(self.dtype), self.rank.upto(largest).to(self.dtype)
        key = lo.mul_(self.base).add_(hi).mul_(2)
        return key.add_(mu.abs() < 2.0**-self.b) if self.zero_fix else key

    def split(self, keys: Tensor, members: Tensor, of: Tensor, number: Tensor, numbers: int) -> Kinds:
        """keys, members: (m,), of the kinds that occur, rising."""
        pair, small = np.divmod(keys.long().cpu().numpy(), 2)
        lo, hi = np.divmod(pair, self.base)
        return Kinds(lo, hi, small.astype(np.bool_), members.cpu().numpy(), of, number, numbers)


class _Table:
    """How many candidates lie below a code, by a table over all codes up to the largest candidate."""

    def __init__(self, codes: NDArray[np.int64], device: torch.device) -> None:
        self.bound = int(np.abs(codes).max())
        upto = np.bincount(codes + self.bound + 1, minlength=2 * self.bound + 2).cumsum()
        self.table = torch.from_numpy(upto).to(device, torch.int32)

    def below(self, code: Tensor) -> Tensor:
        """Candidates < code, whole numbers (m,) float32."""
        place = code.clamp(-self.bound, self.bound + 1).to(torch.int32).add_(self.bound)
        return self.table.index_select(0, place)

    def upto(self, code: Tensor) -> Tensor:
        """Candidates <= code, whole numbers (m,) float32."""
        place = code.clamp(-self.bound - 1, self.bound).to(torch.int32).add_(self.bound + 1)
        return self.table.index_select(0, place)


class _Search:
    """The same by a search among the candidates, of which float32 holds every code exactly."""

    def __init__(self, codes: NDArray[np.int64], device: torch.device) -> None:
        self.codes = torch.from_numpy(codes).to(device, torch.float32)

    def below(self, code: Tensor) -> Tensor:
        return torch.searchsorted(self.codes, code, out_int32=True)

    def upto(self, code: Tensor) -> Tensor:
        return torch.searchsorted(self.codes, code, right=True, out_int32=True)
