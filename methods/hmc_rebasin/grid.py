"""A factorised Gaussian as integers: sigma on a few levels per tensor, mu in steps of its own sigma.

log sigma is rounded to 2^bits levels, evenly spaced from the smallest to the largest of the tensor, then mu to
multiples of c sigma (sigma as decoded), which adds c^2/12 of the variance, and the r columns of a low-rank factor to
multiples of c sigma/sqrt(r), which add as much again all together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BITS = 5
C = 0.125

FINEST = 2.0**-20
"""Smallest sigma relative to |mu| of its weight: steps stay below 2^24 even if a single sigma is tiny."""
_DECIMAL = Context(prec=30)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Integers of T tensors, one after the other, (P,) in all.

    sizes: entries of each. low, high: (T,) float32, smallest and largest sigma of each, 1 for a tensor without any.
    level: (P,) uint8. step: (P,) int32 of mu. factor: (r, P) int32 of the columns of a low-rank factor, r may be 0.
    """

    sizes: tuple[int, ...]
    low: Floats
    high: Floats
    level: npt.NDArray[np.uint8]
    step: npt.NDArray[np.int32]
    factor: npt.NDArray[np.int32]
    bits: int = BITS
    c: float = C

    def levels(self) -> Floats:
        """(T, 2^bits) float32 values of sigma. Interpolated in decimal arithmetic, which rounds correctly on every
        machine: the entropy coder needs the same bits when it decodes."""
        last = 2**self.bits - 1
        table = np.empty((len(self.sizes), last + 1), dtype=np.float32)
        for row, low, high in zip(table, self.low.tolist(), self.high.tolist(), strict=True):
            if low == high:
                row[:] = low
                continue
            start, end = Decimal(low).ln(_DECIMAL), Decimal(high).ln(_DECIMAL)
            width = end - start
            row[:] = [float((start + width * index / last).exp(_DECIMAL)) for index in range(last + 1)]
            row[0], row[-1] = low, high
        return table

    def widths(self) -> npt.NDArray[np.float64]:
        """The levels in float64, (T, 2^bits)."""
        return self.levels().astype(np.float64)

    def pieces(self) -> Iterator[tuple[int, slice]]:
        """(number of the tensor, where its entries are)."""
        start = 0
        for position, size in enumerate(self.sizes):
            yield position, slice(start, start + size)
            start += size

    def sigma(self) -> Tensor:
        """(P,) float32."""
        return torch.from_numpy(self.spread(self.levels()))

    def mean(self) -> Tensor:
        """(P,) float32: steps times c sigma, rounded once."""
        return torch.from_numpy(self._multiplied(self.step[None], self.c)[0])

    def columns(self) -> Tensor:
        """(r, P) float32 low-rank factor."""
        return torch.from_numpy(self._multiplied(self.factor, column_step(self.c, len(self.factor))))

    def spread(self, table: npt.NDArray) -> npt.NDArray:
        """(P,) entries of a table (T, 2^bits), each by its tensor and level."""
        out = np.empty(len(self.level), dtype=table.dtype)
        for position, where in self.pieces():
            np.take(table[position], self.level[where], out=out[where])
        return out

    def _multiplied(self, steps: npt.NDArray[np.int32], c: float) -> Floats:
        out = np.empty(steps.shape, dtype=np.float32)
        width = self.widths() * c
        for position, where in self.pieces():
            out[:, where] = steps[:, where] * width[position][self.level[where]]
        return out


def column_step(c: float, rank: int) -> float:
    """Step of a low-rank factor's entries in units of sigma."""
    return c / float(np.sqrt(max(1, rank)))


def quantise(
    mean: Sequence[Tensor],
    sigma: Sequence[Tensor],
    factor: Sequence[Tensor] = (),
    *,
    bits: int = BITS,
    c: float = C,
) -> Grid:
    """The nearest integers. mean, sigma: T flat tensors each; factor: none, or T of (r, size).

    Raises:
        ValueError: a number that is not finite, or a sigma that is not positive.
    """
    sizes = tuple(len(one) for one in mean)
    rank = len(factor[0]) if factor else 0
    low, high = np.ones(len(sizes), dtype=np.float32), np.ones(len(sizes), dtype=np.float32)
    level, step = np.zeros(sum(sizes), dtype=np.uint8), np.zeros(sum(sizes), dtype=np.int32)
    columns = np.zeros((rank, sum(sizes)), dtype=np.int32)
    grid = Grid(sizes, low, high, level, step, columns, bits, c)
    for position, where in grid.pieces():
        if sizes[position]:
            deviation = _checked(mean[position], sigma[position])
            low[position], high[position] = deviation.min(), deviation.max()
            level[where] = _nearest(deviation, bits)
    levels = grid.widths()
    for position, where in grid.pieces():
        width = c * levels[position][level[where]]
        step[where] = np.rint(mean[position].double().cpu().numpy() / width)
        if rank:
            columns[:, where] = np.rint(factor[position].double().cpu().numpy() / (width / np.sqrt(rank)))
    return grid


def _checked(mean: Tensor, sigma: Tensor) -> npt.NDArray:
    """sigma in float64, at least `FINEST` of its own mean."""
    mu, deviation = mean.double().cpu().numpy(), sigma.double().cpu().numpy()
    if not (np.isfinite(mu).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
        raise ValueError("a grid needs finite means and finite sigma above 0; leave entries without sigma out")
    raised: npt.NDArray = np.maximum(deviation, FINEST * np.abs(mu))
    return raised


def _nearest(sigma: npt.NDArray, bits: int) -> npt.NDArray:
    """Indices of the nearest of 2^bits levels, in the logarithm."""
    log = np.log(sigma)
    low, high = log.min(), log.max()
    if low == high:
        return np.zeros(len(sigma))
    indices: npt.NDArray = np.rint((log - low) * ((2**bits - 1) / (high - low)))
    return indices
