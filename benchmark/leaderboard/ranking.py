"""The order of rows and the marks of the best, within one network of one table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import fsum

from benchmark.leaderboard.cell import Cell
from benchmark.metrics.record import Direction
from benchmark.statistics import Mark, mark_best

NaturalKey = tuple[tuple[int, int, str], ...]


def natural(text: str) -> NaturalKey:
    """A sort key that puts `k=64` before `k=256`."""
    pieces = re.findall(r"\d+|\D+", text.casefold())
    return tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces)


def order(cell: Cell, direction: Direction, worst_first: bool = False) -> tuple[int, float]:
    """Where a cell stands in its column: complete numbers by `direction`, infinity, incomplete ones, failed, n/a.

    `worst_first` turns the numbers round and leaves the groups: failed and n/a stay last whatever the direction. A cell
    that lacks seeds is never ranked among complete ones: a seed that failed would look like a win.
    """
    if cell.state == "na":
        return (4, 0.0)
    if cell.state == "failed":
        return (3, 0.0)
    mean = _mean(_oriented(cell, direction)) if cell.state == "ok" else 0.0
    key = -mean if (direction == "up") != worst_first else mean
    if not cell.complete:
        return (2, key)
    return (1, 0.0) if cell.state == "inf" else (0, key)


def marks(cells: Mapping[str, Cell], direction: Direction, excluded: bool = False) -> dict[str, frozenset[Mark]]:
    """Which rows of one column are best or second, by `statistics.mark_best`: row -> marks; unmarked rows left out.

    Only finite cells with full coverage are candidates. `excluded`: the column is not marked at all.
    """
    candidates = {
        row: _oriented(cell, direction) for row, cell in cells.items() if cell.complete and cell.state == "ok"
    }
    most = max((len(by_seed) for by_seed in candidates.values()), default=0)
    # One seed is no rival of five.
    candidates = {row: by_seed for row, by_seed in candidates.items() if len(by_seed) == most}
    if excluded or direction == "none" or len(candidates) < 2:
        return {}
    found = mark_best(candidates, "up" if direction == "up" else "down")
    if not any("best" in each for each in found.values()):  # too few seeds: only an underline, which ties share
        first = next(row for row, each in found.items() if each)
        found = {row: found[first] for row in candidates if _mean(candidates[row]) == _mean(candidates[first])}
    return {row: frozenset(each) for row, each in found.items() if each}


def _oriented(cell: Cell, direction: Direction) -> dict[int, float]:
    """Values by seed; of a metric that is best at zero their sizes: errors of opposite sign must not cancel."""
    return {seed: abs(value) if direction == "zero" else value for seed, value in cell.by_seed.items()}


def _mean(values: Mapping[int, float]) -> float:
    return fsum(values.values()) / len(values)
