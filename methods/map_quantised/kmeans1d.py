"""K-means on a line, for tens of millions of points: Lloyd's algorithm on the cells of a fine histogram.

On a line clusters are intervals, so that an iteration is K look-ups in cumulative sums, whatever the number of points.
All members of a cell get one label, and every sum is exact for that labelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 1 << 18
CHUNK = 1 << 21
"""Points per pass: bounds the temporaries."""
KNOTS_PER_COMPONENT = 8
POWERS = (2 / 3, 1 / 3, 1.0)
"""Starts: the centres that are optimal in the limit of many, denser ones in the bulk, and sparser ones."""
MOST_ITERATIONS, SMALLEST_GAIN = 300, 1e-5
"""Of Lloyd's algorithm: it goes on while the objective falls by this share."""
MOST_ROUNDS, SMALLEST_ROUND = 30, 1e-3
"""Of splits and mergers, likewise."""
FEWER = 4
"""After a round of no use, a quarter of its swaps is tried."""


@dataclass(frozen=True)
class Cells:
    """Points on a line, binned. of: int32 (N,), the cell of each point. n, x, xx: float64 (M,), the sums of 1, x and
    x^2 over the members of each of the M non-empty cells, which are in rising order of x."""

    of: Tensor
    n: Tensor
    x: Tensor
    xx: Tensor

    @classmethod
    def binned(cls, points: Tensor) -> Cells:
        """Cells of equal width between the extremes. points: float32 (N,), finite, N >= 1, on the CPU."""
        low, high = (float(end) for end in points.aminmax())
        per_unit = CELLS / (high - low) if high > low else 0.0
        of = torch.empty(len(points), dtype=torch.int32)
        sums = torch.zeros(3, CELLS, dtype=torch.float64)
        for piece, cells in zip(points.split(CHUNK), of.split(CHUNK), strict=True):
            cell = piece.sub(low).mul_(per_unit).long().clamp_(max=CELLS - 1)
            x = piece.double()
            sums[0] += torch.bincount(cell, minlength=CELLS)
            sums[1] += torch.bincount(cell, x, minlength=CELLS)
            sums[2] += torch.bincount(cell, x.square_(), minlength=CELLS)
            cells.copy_(cell)
        filled = sums[0] > 0
        rank = filled.cumsum(0, dtype=torch.int32).sub_(1)
        return cls(rank.index_select(0, of), *sums[:, filled])

    def __len__(self) -> int:
        return len(self.n)

    @property
    def variation(self) -> float:
        """sum_i (x_i - mean)^2."""
        return float(self.xx.sum() - self.x.sum().square() / self.n.sum())


@dataclass(frozen=True)
class Clusters:
    """K intervals of cells, in rising order. first: int64 (K,), their first cells. n: float64 (K,), members. centre:
    float64 (K,), their means."""

    first: Tensor
    n: Tensor
    centre: Tensor

    def __len__(self) -> int:
        return len(self.n)

    @property
    def entropy_bits(self) -> float:
        """Entropy of a point's label, in bits."""
        share = self.n / self.n.sum()
        return -float((share * share.log2()).sum())

    def labels(self, cells: Cells) -> Tensor:
        """The cluster of each point (N,): uint8 if K <= 256, else int32."""
        of_cell = torch.arange(len(self)).repeat_interleave(self._sizes(cells))
        return of_cell.to(torch.uint8 if len(self) <= 256 else torch.int32).index_select(0, cells.of)

    def distortion(self, cells: Cells) -> float:
        """sum_i (x_i - centre[c(i)])^2."""
        centre = self.centre.repeat_interleave(self._sizes(cells))
        return float((cells.xx - 2 * centre * cells.x + centre.square() * cells.n).clamp_(min=0).sum())

    def _sizes(self, cells: Cells) -> Tensor:
        """Cells of each cluster."""
        sizes: Tensor = functional.pad(self.first, (0, 1), value=len(cells)).diff()
        return sizes


def kmeans(cells: Cells, components: int, powers: Sequence[float] = POWERS) -> Clusters:
    """`components` clusters (fewer where there are fewer cells) of small summed squared distance to their means.

    The best of several starts, one for each of the powers (see `companded`). Deterministic.
    """
    if components >= len(cells):
        return _intervals(cells, torch.arange(len(cells) + 1))
    line = _Line.of(cells)
    starts = [line.nearest(companded(line.mean, cells.n, components, power)) for power in powers]
    return _intervals(cells, max((_refined(line, start, components) for start in starts), key=line.between))


def _refined(line: _Line, edges: Tensor, components: int) -> Tensor:
    """Lloyd's algorithm, and again after cheap pairs of clusters were merged in favour of wide ones, as long as that
    helps: heavy tails and gaps leave Lloyd's algorithm alone in poor optima, with fewer clusters than asked for."""
    edges, swaps = line.lloyd(edges), components
    for _ in range(MOST_ROUNDS):
        moved, swaps = line.resettled(edges, components, swaps)
        moved = line.lloyd(moved)
        gain = line.between(moved) - line.between(edges)
        if len(moved) > len(edges) or gain > SMALLEST_ROUND * (line.total - line.between(edges)):
            edges, swaps = moved, components
        elif swaps <= 1:
            break
        else:
            swaps //= FEWER
    return edges


@dataclass(frozen=True)
class _Line:
    """mean: float64 (M,), rising, of the cells. sums: float64 (2, M + 1), cumulative, of 1 and of x around the mean of
    all points, so that fewer digits cancel. total: sum x^2. Clusters are `edges` (K + 1,): 0, first cells, M."""

    mean: Tensor
    sums: Tensor
    total: float

    @classmethod
    def of(cls, cells: Cells) -> _Line:
        x = cells.x - cells.n * (cells.x.sum() / cells.n.sum())
        return cls(x / cells.n, functional.pad(torch.stack([cells.n, x]).cumsum(1), (1, 0)), cells.variation)

    def members(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """(n, centre), each (K,), of clusters from a first cell up to, but not with, a last one."""
        n, x = self.sums[:, last] - self.sums[:, first]
        return n, x / n

    def between(self, edges: Tensor) -> float:
        """sum_k n_k centre_k^2; the objective is `total` minus this."""
        n, centre = self.members(edges[:-1], edges[1:])
        return float((n * centre.square()).sum())

    def nearest(self, centre: Tensor) -> Tensor:
        """Edges of the cells next to each of the rising centres; those without cells are left out."""
        inner = torch.searchsorted(self.mean, (centre[1:] + centre[:-1]) / 2)
        edges: Tensor = functional.pad(functional.pad(inner, (1, 0)), (0, 1), value=len(self.mean)).unique_consecutive()
        return edges

    def lloyd(self, edges: Tensor) -> Tensor:
        """Cells to the nearest centre, centres to the mean of their cells, until little is gained."""
        between = self.between(edges)
        for _ in range(MOST_ITERATIONS):
            edges = self.nearest(self.members(edges[:-1], edges[1:])[1])
            before, between = between, self.between(edges)
            if between - before <= SMALLEST_GAIN * (self.total - between):
                break
        return edges

    def resettled(self, edges: Tensor, components: int, most: int) -> tuple[Tensor, int]:
        """The clusters brought to `components` by splits at the mean; and the swaps made besides, at most `most`: the
        next split and the cheapest merger of neighbours, both, as long as the one gains more than the other costs.

        Of mergers side by side only the cheapest counts.
        """
        n, centre = self.members(edges[:-1], edges[1:])
        cut = torch.searchsorted(self.mean, centre).clamp(edges[:-1] + 1, edges[1:] - 1)
        gain = merger_cost(self.members(edges[:-1], cut), self.members(cut, edges[1:])).nan_to_num_()  # 0: one cell
        cost = merger_cost((n[:-1], centre[:-1]), (n[1:], centre[1:]))
        beside = functional.pad(cost, (1, 1), value=torch.inf)
        cheapest = (cost < beside[:-2]) & (cost <= beside[2:])
        splits, mergers = gain.sort(descending=True), cost.where(cheapest, torch.inf).sort()
        free = components + 1 - len(edges)
        pairs = max(0, min(len(cost), len(gain) - free, most))
        swaps = int((splits.values[free : free + pairs] > mergers.values[:pairs]).sum())
        kept = torch.ones(len(edges), dtype=torch.bool)
        kept[mergers.indices[:swaps] + 1] = False
        return torch.cat([edges[kept], cut[splits.indices[: free + swaps]]]).unique(), swaps


def merger_cost(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Increase of the objective when clusters (n, centre) become one: n m / (n + m) times their squared distance."""
    (n, a), (m, b) = one, other
    return n * m / (n + m) * (a - b).square()


def companded(mean: Tensor, n: Tensor, components: int, power: float) -> Tensor:
    """Starting centres, float64 (K,), rising: quantiles of density^(1 - power). mean, n: of the cells (M,).

    Power 2/3 gives the density of the optimal centres in the limit of many (Panter, Dite 1951). Between knots of equal
    mass 1/Q, w apart, the density is 1/(Q w): such a gap gets centres in proportion to w^power.
    """
    knots = min(len(mean), KNOTS_PER_COMPONENT * components)
    cumulative = n.cumsum(0)
    at = torch.linspace(0, float(cumulative[-1]), knots + 1, dtype=torch.float64)
    position = mean[torch.searchsorted(cumulative, at).clamp_(max=len(mean) - 1)]  # (Q + 1,)
    width = position.diff()
    warped = functional.pad(width.pow(power).cumsum(0), (1, 0))
    wanted = (torch.arange(components, dtype=torch.float64) + 0.5) / components * warped[-1]
    gap = torch.searchsorted(warped, wanted).clamp_(1, knots) - 1
    return position[gap] + ((wanted - warped[gap]) / warped.diff()[gap]).nan_to_num_() * width[gap]


def _intervals(cells: Cells, edges: Tensor) -> Clusters:
    """The clusters between edges, with exact sums: differences of cumulative ones have lost digits."""
    label = torch.arange(len(edges) - 1).repeat_interleave(edges.diff())
    sums = torch.zeros(2, len(edges) - 1, dtype=torch.float64)
    sums.index_add_(1, label, torch.stack([cells.n, cells.x]))
    return Clusters(edges[:-1], sums[0], sums[1] / sums[0])
