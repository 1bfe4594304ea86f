"""The values that weights may be fixed to: sums of few signed powers of two, apart by a relative distance.

Subia-Waud, Dasmahapatra, "Weight Fixing Networks" (ECCV 2022, arXiv 2210.13554).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

GAMMA_BITS = 7
GAMMA = 2.0**-GAMMA_BITS
"""Smallest value but 0; weights below it are 0."""
LARGEST_STEP = 0.9999
"""Of the chain: at a relative distance of 1 it would have no second value."""

Values = NDArray[np.float64]


def grid_bits(distance: float) -> int:
    """b such that all candidates at this relative distance or a larger one are multiples of 2^-b."""
    return max(GAMMA_BITS, -round(math.log2(distance * GAMMA)))


class Candidates:
    """Of weights up to `largest` in magnitude, at one relative distance."""

    def __init__(self, distance: float, largest: float) -> None:
        self._distance = distance
        self._chain = chain(distance, largest)
        self._sums: dict[int, Values] = {}

    def values(self, order: int, largest: float) -> Values:
        """(K,), rising: the links of the chain below `largest`, each as a sum of at most order + 1 signed powers of
        two, their negatives, and 0."""
        if order not in self._sums:
            self._sums[order] = power_sums(self._chain, self._distance, order)
        magnitudes = self._sums[order][: np.searchsorted(self._chain, largest)]
        return np.unique(np.concatenate([-magnitudes, np.zeros(1), magnitudes]))


def chain(distance: float, largest: float) -> Values:
    """(n,), rising from 2^-7 to below `largest`: a link's relative reaches down and up end where its neighbours' do."""
    step = min(distance, LARGEST_STEP)
    links, value = [], GAMMA
    while value < largest:
        links.append(value)
        value = value * (1 + step) / (1 - step)
    return np.array(links, dtype=np.float64)


def power_sums(values: Values, distance: float, order: int) -> Values:
    """(n,), for values (n,) of at least 2^-7: the nearest power of two, then up to `order` times the nearest signed
    power to what is missing, while that is at least `distance` of the value. No power is below 2^-(8 + order)."""
    finest = -float(GAMMA_BITS + order + 1)
    sums = _nearest_power(values, finest)
    for _ in range(order):
        missing = values - sums
        more = np.abs(missing) >= distance * values
        if not more.any():
            break
        sums[more] += _nearest_power(missing[more], finest)
    return sums


def _nearest_power(values: Values, finest: float) -> Values:
    """With sign, nearest in the exponent, which is at least `finest`. values: not 0."""
    exponents = np.maximum(finest, np.round(np.log2(np.abs(values))))
    return np.sign(values) * np.exp2(exponents)
