"""Weights binned into the cells of a grid over (x, ln s): clustering then works on thousands of cells, not millions of
weights, with the exact moments of their members."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import ConfigError
from methods.stochastic_weight_sharing.sharing.largest import Largest
from methods.stochastic_weight_sharing.sharing.moments import ROWS, Moments
from methods.stochastic_weight_sharing.sharing.plane import CHUNK, Plane

MOST_UNBINNED = 200_000
"""Up to so many weights, each is a cell of its own."""
TAIL = 1e-5
"""Share of the weights beyond each edge of the grid; they go to the cells at the edge."""
STRETCH = 0.1
"""Of a typical standard deviation: below it a stretched axis is linear, above it logarithmic."""


@dataclass(frozen=True)
class Cells:
    """moments: of the M cells, none empty. of: (N,) int32, the cell of each weight in flat order."""

    moments: Moments
    of: Tensor

    def __len__(self) -> int:
        return len(self.moments)

    def without(self, plane: Plane, index: Tensor) -> Cells:
        """The cells after the weights with these flat indices, int64, rising, have left.

        plane: the one that was binned. index: whoever left before is among them. Cells without members are dropped, the
        others keep their order; `of` then says something valid and meaningless about weights that left.

        Raises:
            ConfigError: nobody stays.
        """
        if len(index) == len(self.of):
            raise ConfigError(
                f"all {len(index)} weights are outliers and none is left to share: lower outlier_fraction, "
                "outlier_cluster or components (gmm and kmeans give up clusters below 3 members), or raise outlier_size"
            )
        nowhere = len(self)
        of = self.of.clone()
        of[index] = nowhere
        left = torch.zeros(nowhere + 1, dtype=torch.bool, device=of.device)
        left[self.of[index]] = True
        table = torch.nn.functional.pad(self.moments.table, (0, 1))
        table[:, left] = 0
        # Summed anew, not subtracted: who leaves is far out, and would leave rounding errors of the size of its square.
        for start, x, s in plane.pieces():
            cell = of[start : start + len(x)]
            own = left.index_select(0, cell).nonzero()[:, 0]
            _add(table, cell[own], x[own], s[own])
        return _compact(table, of)

    def expand(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """(N,) of `dtype`: each weight has the label of its cell, (M,)."""
        return labels.to(dtype).index_select(0, self.of)


def bin_points(plane: Plane, grid: tuple[int, int], *, stretched: bool = False) -> Cells:
    """The non-empty cells of a grid[0] x grid[1] grid over (x, l) between the quantiles 1e-5 and 1 - 1e-5 of each.

    stretched: the first axis is asinh(x / (0.1 r)), r the median of the tensors' standard deviations of x, so that
    cells suit layers of any scale. Up to 200,000 weights are not binned: each is its own cell.
    """
    if len(plane) <= MOST_UNBINNED:
        return _unbinned(plane)
    unit = STRETCH * _typical_deviation(plane) if stretched else None
    (low_x, high_x), (low_s, high_s) = _ranges(plane)
    columns = _Axis.between(_coordinate(low_x, unit), _coordinate(high_x, unit), grid[0])
    rows = _Axis.between(low_s.log(), high_s.log(), grid[1])
    of = torch.empty(len(plane), dtype=torch.int32, device=plane.device)
    table = torch.zeros(len(ROWS), grid[0] * grid[1], dtype=torch.float64, device=plane.device)
    for start, x, s in plane.pieces():
        cell = columns.cell(_coordinate(x, unit)) * grid[1] + rows.cell(s.log())
        of[start : start + len(x)] = cell
        _add(table, cell, x, s)
    return _compact(table, of)


@dataclass(frozen=True)
class _Axis:
    """`cells` intervals of equal width from `low`."""

    low: float
    per_unit: float
    cells: int

    @classmethod
    def between(cls, low: Tensor, high: Tensor, cells: int) -> _Axis:
        width = float(high - low)
        return cls(float(low), cells / width if width > 0 else 0.0, cells)

    def cell(self, coordinate: Tensor) -> Tensor:
        """int32, of the coordinate's shape; outside values go to the cells at the edge."""
        return ((coordinate - self.low) * self.per_unit).clamp_(0, self.cells - 1).to(torch.int32)


def _coordinate(x: Tensor, unit: float | None) -> Tensor:
    return x if unit is None else (x.float() / unit).asinh_()


def _ranges(plane: Plane) -> list[tuple[Tensor, Tensor]]:
    """(low, high) of x and of s: the quantiles 1e-5 and 1 - 1e-5, found without sorting."""
    count = 1 + int(TAIL * len(plane))
    ends = [Largest(count, plane.device) for _ in range(4)]
    for start, x, s in plane.pieces():
        for end, values in zip(ends, (-x, x, -s, s), strict=True):
            end.see(values, start)
    low_x, high_x, low_s, high_s = (torch.tensor(end.smallest(), dtype=torch.float64) for end in ends)
    return [(-low_x, high_x), (-low_s, high_s)]


def _typical_deviation(plane: Plane) -> float:
    """Median over tensors of the standard deviation of x; 1 where it is zero."""
    deviations = []
    for name, shape in plane.shapes.items():
        total = square = 0.0
        for _, x, _ in plane.subset([name]).pieces():
            total += float(x.sum(dtype=torch.float64))
            square += float(x.double().square().sum())
        mean = total / max(1, shape.numel())
        deviations.append(math.sqrt(max(0.0, square / max(1, shape.numel()) - mean**2)))
    return float(torch.tensor(deviations).median()) or 1.0


def _unbinned(plane: Plane) -> Cells:
    of = torch.arange(len(plane), dtype=torch.int32, device=plane.device)
    table = torch.cat([torch.stack(_features(x, s)) for _, x, s in plane.pieces()], dim=1)
    return Cells(Moments(table), of)


def _features(x: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    """What the rows of a table of moments sum: 1, x, x^2, l, l^2, x l, s, s^2, x s, each (m,) float64."""
    x, s = x.double(), s.double()
    logs = s.log()
    return torch.ones_like(x), x, x * x, logs, logs * logs, x * logs, s, s * s, x * s


def _add(table: Tensor, cell: Tensor, x: Tensor, s: Tensor) -> None:
    """table (9, M) += the sums over the weights x, s (m,) in each cell; cell (m,) int32."""
    for row, values in zip(table, _features(x, s), strict=True):
        row += torch.bincount(cell, values, minlength=len(row))


def _compact(table: Tensor, of: Tensor) -> Cells:
    """Without the cells that have no members; `of` is renumbered in place."""
    filled = table[0] > 0
    position = (filled.cumsum(0) - 1).clamp_(min=0).to(torch.int32)
    for part in of.split(CHUNK):
        part.copy_(position.index_select(0, part))
    return Cells(Moments(table[:, filled]), of)
