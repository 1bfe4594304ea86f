"""The weights that are still free, sorted by size: whom a value has near it is a range, not a search over all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LARGEST = 2.0**127
"""Bound on |w|, of which float32 has a successor."""
ROUNDING = 1e-12
"""Relative margin of a range's ends, which are computed: membership is decided by the distance itself."""


class Side:
    """Weights of one sign. keys: (n,) uint64, rising: the bits of |w| in float32, which rise with it, then the index
    in flat order. Equal weights are therefore in the order of their indices."""

    def __init__(self, magnitude: NDArray[np.float32], index: NDArray[np.integer]) -> None:
        keys = magnitude.view(np.uint32).astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= index.astype(np.uint64)
        keys.sort()
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def below(self, bound: Floats | float) -> NDArray[np.intp]:
        """How many have |w| < bound, >= 0."""
        exact = np.minimum(np.asarray(bound, dtype=np.float64), LARGEST)
        single = exact.astype(np.float32)
        single = np.where(single < exact, np.nextafter(single, np.float32(np.inf)), single)  # up: w < bound <= single
        return np.searchsorted(self.keys, _key(single))

    def upto(self, bound: Floats | float) -> NDArray[np.intp]:
        """How many have |w| <= bound, >= 0."""
        exact = np.minimum(np.asarray(bound, dtype=np.float64), LARGEST)
        single = exact.astype(np.float32)
        single = np.where(single > exact, np.nextafter(single, np.float32(0)), single)
        return np.searchsorted(self.keys, _key(np.nextafter(single, np.float32(np.inf))))

    def magnitudes(self, start: int, stop: int) -> Floats:
        """|w| of a range."""
        return (self.keys[start:stop] >> np.uint64(32)).astype(np.uint32).view(np.float32).astype(np.float64)

    def remove(self, start: int, leaving: NDArray[np.bool_]) -> None:
        """Let those of keys[start : start + len(leaving)] go; what follows moves up in the same memory."""
        stop = start + len(leaving)
        kept = self.keys[start:stop][~leaving]
        middle, end = start + len(kept), len(self.keys) - len(leaving) + len(kept)
        self.keys[start:middle] = kept
        self.keys[middle:end] = self.keys[stop:]
        self.keys = self.keys[:end]


class Range(NamedTuple):
    """Places start..stop-1 of one side. opposite: of the sign that the value has not."""

    side: Side
    start: int
    stop: int
    opposite: bool

    @property
    def keys(self) -> NDArray[np.uint64]:
        return self.side.keys[self.start : self.stop]

    @property
    def magnitudes(self) -> Floats:
        return self.side.magnitudes(self.start, self.stop)


class SortedWeights:
    """n free weights: float32 values and their positions among all, below 2^32. On the host."""

    def __init__(self, w: NDArray[np.float32], index: NDArray[np.integer]) -> None:
        negative = w < 0
        magnitude = np.abs(w)
        self.positive = Side(magnitude[~negative], index[~negative])
        self.negative = Side(magnitude[negative], index[negative])

    def __len__(self) -> int:
        return len(self.positive) + len(self.negative)

    def largest(self) -> float:
        """max |w|; n >= 1."""
        ends = [side.magnitudes(len(side) - 1, len(side)) for side in (self.positive, self.negative) if len(side)]
        return max(float(end[0]) for end in ends)

    def votes(self, values: Floats) -> NDArray[np.intp]:
        """(K,) how many weights each of the values (K,), rising, is the nearest one to; the smaller of two."""
        middles = (values[:-1] + values[1:]) / 2
        upto = np.where(middles >= 0, self.positive.upto(middles.clip(min=0)) + len(self.negative), 0)
        upto += np.where(middles < 0, len(self.negative) - self.negative.below((-middles).clip(min=0)), 0)
        return np.diff(upto, prepend=0, append=len(self))

    def near(self, value: float, reach: float) -> list[Range]:
        """Where the weights with |w - value| <= reach |w| are, and perhaps a few more; value not 0."""
        same, other = (self.positive, self.negative) if value > 0 else (self.negative, self.positive)
        size = abs(value)
        start = int(same.below(size / (1 + reach) * (1 - ROUNDING)))
        stop = int(same.upto(size / (1 - reach) * (1 + ROUNDING))) if reach < 1 else len(same)
        beyond = int(other.below(size / (reach - 1) * (1 - ROUNDING))) if reach > 1 else len(other)
        return [Range(same, start, stop, False), Range(other, beyond, len(other), True)]

    def small(self, bound: float) -> list[Range]:
        """Where the weights with |w| < bound are."""
        return [Range(side, 0, int(side.below(bound)), False) for side in (self.positive, self.negative)]


def _key(magnitude: NDArray[np.float32]) -> NDArray[np.uint64]:
    """The least key of a weight of this size."""
    return np.asarray(magnitude, dtype=np.float32).view(np.uint32).astype(np.uint64) << np.uint64(32)
