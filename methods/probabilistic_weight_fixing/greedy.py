"""The greedy choice of values: again and again the one that the most free weights count for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from methods.probabilistic_weight_fixing.histogram import Kinds


def greedy(kinds: Kinds, candidates: int, zero: int, left: int) -> tuple[list[tuple[int, int]], NDArray[np.int32]]:
    """(candidate, members) of every pick, in order, and (m,) the position of the pick that each kind goes to, else -1.

    zero: position of the value 0 among the candidates. Ties go to the smallest value. Ends when no free weight counts
    for a candidate, or when at least `left` weights are picked: the last pick may have more members than are left.
    """
    picks: list[tuple[int, int]] = []
    pick_of = np.full(len(kinds.members), -1, dtype=np.int32)
    votes = coverage(kinds, candidates, zero)
    while left > 0:
        best = int(votes.argmax())
        members = int(votes[best])
        if members == 0:
            break
        counted = (kinds.lo <= best) & (best < kinds.hi)
        if best == zero:
            counted |= kinds.small
        own = (counted & (pick_of < 0)).nonzero()[0]
        pick_of[own] = len(picks)
        picks.append((best, members))
        votes -= _coverage(kinds, own, candidates, zero)
        left -= members
    return picks, pick_of


def coverage(kinds: Kinds, candidates: int, zero: int) -> NDArray[np.int64]:
    """(K,) how many weights count for each candidate: those that admit it, and for 0 the small ones; each once."""
    return _coverage(kinds, np.arange(len(kinds.members)), candidates, zero)


def _coverage(kinds: Kinds, own: NDArray[np.int64], candidates: int, zero: int) -> NDArray[np.int64]:
    """By the kinds `own` alone."""
    lo, hi, members = kinds.lo[own], kinds.hi[own], kinds.members[own]
    steps = np.zeros(candidates + 1, dtype=np.int64)
    np.add.at(steps, lo, members)
    np.subtract.at(steps, hi, members)
    votes = steps[:-1].cumsum()
    votes[zero] += members[kinds.small[own] & ((zero < lo) | (hi <= zero))].sum()
    return votes
