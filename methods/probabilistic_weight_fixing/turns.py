"""Variants of the choice that look at every free weight again for every value: `count: nearest`, `membership: mean`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.probabilistic_weight_fixing.free import Free, positions
from methods.probabilistic_weight_fixing.greedy import coverage
from methods.probabilistic_weight_fixing.histogram import interval, kinds_of
from methods.probabilistic_weight_fixing.settings import FixingSettings


def choose_by_turns(
    free: Free, codes: NDArray[np.int64], delta: float, b: int, left: int, settings: FixingSettings
) -> tuple[list[tuple[int, int]], Tensor]:
    """(candidate, members) of every pick, in order, and (n,) int32 the position of each free weight's pick, else -1.

    codes: (K,), rising. A candidate is picked once at most. Ends when the one with the largest count has no member, or
    when at least `left` weights are picked; see `greedy`.
    """
    picks: list[tuple[int, int]] = []
    pick_of = torch.full((len(free),), -1, dtype=torch.int32, device=free.mu.device)
    alive = np.arange(len(codes))
    while left > 0 and len(alive):
        still = positions(pick_of < 0)
        rest = Free(free.mu[still], free.sigma[still], free.index[still])
        count = count_nearest if settings.count == "nearest" else count_coverage
        votes = count(rest, codes[alive], delta, b, settings.zero_fix)
        best = int(votes.argmax())
        member = within_mean if settings.membership == "mean" else within
        own = member(rest, int(codes[alive[best]]), delta, b, settings.zero_fix)
        if votes[best] == 0 or not len(own):
            break
        pick_of[still[own]] = len(picks)
        picks.append((int(alive[best]), len(own)))
        alive = np.delete(alive, best)
        left -= len(own)
    return picks, pick_of


def count_coverage(free: Free, codes: NDArray[np.int64], delta: float, b: int, zero_fix: bool) -> NDArray[np.int64]:
    """(K,) votes: weights that admit the candidate, and small ones for 0 where it is a candidate."""
    zeros = (codes == 0).nonzero()[0]
    kinds = kinds_of(free, codes, delta, b, zero_fix and len(zeros) > 0)
    return coverage(kinds, len(codes), int(zeros[0]) if len(zeros) else 0)


def count_nearest(free: Free, codes: NDArray[np.int64], delta: float, b: int, zero_fix: bool) -> NDArray[np.int64]:
    """(K,) votes: weights that the candidate is nearest to, the smaller of two; small ones for 0, if a candidate."""
    nearest = nearest_candidate(free.mu, codes, b)
    zeros = (codes == 0).nonzero()[0]
    if zero_fix and len(zeros):
        nearest.masked_fill_(free.mu.abs() < 2.0**-b, int(zeros[0]))
    return torch.bincount(nearest, minlength=len(codes)).cpu().numpy()


def nearest_candidate(mu: Tensor, codes: NDArray[np.int64], b: int) -> Tensor:
    """(n,) int64, position in codes (K,), rising, of the nearest value to mu (n,); of two, the smaller one."""
    middles = torch.from_numpy((codes[:-1] + codes[1:]) * 2.0 ** -(b + 1)).to(mu)
    return torch.bucketize(mu, middles)


def within(free: Free, code: int, delta: float, b: int, zero_fix: bool) -> Tensor:
    """Positions (m,) int64 of the weights within delta of a value; for 0 also of the small ones."""
    least, largest = interval(free.mu, free.sigma, delta, b)
    member = (least <= code) & (code <= largest)
    if zero_fix and code == 0:
        member |= free.mu.abs() < 2.0**-b
    return positions(member)


def within_mean(free: Free, code: int, delta: float, b: int, zero_fix: bool) -> Tensor:
    """Positions (m,) int64, nearest first, of as many weights as have a mean distance within delta of a value.

    For 0, small weights have distance 0. Equal distances go by flat index.
    """
    everyone = torch.arange(len(free), device=free.mu.device)
    distance = free.distance(everyone, code * 2.0**-b)
    if zero_fix and code == 0:
        distance.masked_fill_(free.mu.abs() < 2.0**-b, 0)
    distance, order = distance.sort(stable=True)
    mean = distance.double().cumsum(0).div_(everyone + 1)
    return order[: int((mean <= delta).sum())]
