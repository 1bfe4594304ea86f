"""The clustering of `wfn` as it is defined: every weight against every candidate at every pick."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

GAMMA = 2.0**-7


def nearest_power(value: float, order: int) -> float:
    return math.copysign(2.0 ** max(-8 - order, round(math.log2(abs(value)))), value)


def candidates(distance: float, order: int, largest: float) -> list[float]:
    """Rising."""
    step, value, found = min(distance, 0.9999), GAMMA, {0.0}
    while value < largest:
        current = nearest_power(value, order)
        for _ in range(order):
            if abs(value - current) >= distance * abs(value) and current != 0:
                current += nearest_power(value - current, order)
        found |= {current, -current}
        value = value * (1 + step) / (1 - step)
    return sorted(found)


def members(w: NDArray[np.float64], value: float, reach: float) -> NDArray[np.intp]:
    """Positions in w (n,), nearest first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.abs(w - value)
        distance = np.where(np.abs(w) < GAMMA, 0.0, gap / np.abs(w)) if value == 0 else gap / np.abs(w)
    order = np.lexsort((np.arange(len(w)), gap, distance))
    count = total = inside = 0
    skipped = int((distance == 0).sum())
    skipped = skipped if skipped >= 2 else 0
    for position in order[skipped:]:
        total, count = total + distance[position], count + 1
        inside = count if total / count <= reach else inside
    return order[: skipped + inside]


def iteration(
    w: NDArray[np.float32], fixed: NDArray[np.bool_], target: int, distance: float
) -> tuple[list[tuple[float, int, int, float]], NDArray[np.float32], NDArray[np.bool_]]:
    """Picks (value, count, order, reach), and w and fixed after them."""
    w, fixed = w.copy(), fixed.copy()
    picks: list[tuple[float, int, int, float]] = []
    left, order, reach = target - int(fixed.sum()), 0, distance
    while left > 0:
        free = np.flatnonzero(~fixed)
        values = np.array(candidates(distance, order, float(np.abs(w[free]).max())))
        votes = np.bincount(np.abs(w[free, None].astype(np.float64) - values).argmin(1), minlength=len(values))
        value = float(values[votes.argmax()])
        own = free[members(w[free].astype(np.float64), value, reach)[:left]]
        if len(own) == 0:
            order = min(order + 1, 21)
            reach = 2 * reach if order > 20 else reach
            continue
        w[own], fixed[own] = value, True
        picks.append((value, len(own), order, reach))
        left, reach = left - len(own), distance
    return picks, w, fixed
