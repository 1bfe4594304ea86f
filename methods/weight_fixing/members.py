"""Who is fixed to a value that was picked: the nearest weights whose mean relative distance is short enough."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from methods.weight_fixing.candidates import GAMMA
from methods.weight_fixing.free import Floats, Range, SortedWeights

FIRST_WINDOW, GROWTH = 4.0, 4.0
"""Times the reach: how far around a value members are looked for first, and how much farther next."""
WIDEST_WINDOW = 8.0
"""Relative distance beyond which all free weights are looked at: only weights near 0 are farther."""


def take_members(free: SortedWeights, value: float, reach: float, most: int) -> NDArray[np.int64]:
    """Flat indices (m,) of the members of a value, at most `most`, nearest first; they leave `free`.

    The longest run of weights, by (relative distance, |w - value|, index), whose mean relative distance is within
    `reach`. Relative distance: |w - value| / |w|; to 0: 0 if |w| < 2^-7, else 1. Leading zeros are left out of the
    mean when there are at least two.
    """
    window = FIRST_WINDOW * reach
    while True:
        ranges = free.small(GAMMA if window < 1 else math.inf) if value == 0 else free.near(value, window)
        distance, order = _sorted_distances(ranges, value)
        within = int(np.searchsorted(distance, window, side="right"))
        count, closed = run_length(distance[:within], reach, window)
        if closed or count >= most or within == len(free):
            break
        window = window * GROWTH if window * GROWTH <= WIDEST_WINDOW else math.inf
    return _take(ranges, order[: min(count, most)])


def run_length(distance: Floats, reach: float, window: float) -> tuple[int, bool]:
    """Length of the longest run from the start whose mean is within `reach`, and whether distances beyond `window`
    cannot make it longer. distance: (n,), rising."""
    zeros = int(np.searchsorted(distance, 0.0, side="right"))
    skipped = zeros if zeros >= 2 else 0
    total = np.cumsum(distance[skipped:])
    mean = total / np.arange(1, len(total) + 1)
    inside = np.flatnonzero(mean <= reach)
    count = int(inside[-1]) + 1 if len(inside) else 0
    if count < len(total):
        return skipped + count, True
    next_mean = ((total[-1] if len(total) else 0.0) + window) / (len(total) + 1)
    return skipped + count, bool(next_mean > reach)


def _sorted_distances(ranges: list[Range], value: float) -> tuple[Floats, NDArray[np.intp]]:
    """Rising relative distances of the ranges' weights, (n,), and their places in all ranges together."""
    if value == 0:  # a side's keys, and those of both, are in the order of (|w|, index)
        order = np.argsort(np.concatenate([one.keys for one in ranges]))
        size = np.concatenate([one.magnitudes for one in ranges])[order]
        return (size >= GAMMA).astype(np.float64), order
    distance = np.concatenate([_relative(one, abs(value)) for one in ranges])
    # Stable: equal distances are of equal weights, by index, or of one below the value and then one above it or of the
    # other sign, which is the order of |w - value|. It merges runs that are sorted already.
    order = np.argsort(distance, kind="stable")
    return distance[order], order


def _relative(one: Range, value: float) -> Floats:
    size = one.magnitudes
    with np.errstate(divide="ignore", over="ignore"):  # a weight of 0 is infinitely far
        return np.abs(size + value if one.opposite else size - value) / size


def _take(ranges: list[Range], chosen: NDArray[np.intp]) -> NDArray[np.int64]:
    """Flat indices of the weights at these places; they leave their sides."""
    keys = np.concatenate([one.keys for one in ranges])
    leaving = np.zeros(len(keys), dtype=np.bool_)
    leaving[chosen] = True
    first = len(ranges[0].keys)
    for one, mask in zip(ranges, (leaving[:first], leaving[first:]), strict=True):
        one.side.remove(one.start, mask)
    return (keys[chosen] & np.uint64(0xFFFFFFFF)).astype(np.int64)
