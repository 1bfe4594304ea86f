"""The grid of values, multiples of 2^-b, and how large a weight may be on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmark import ConfigError

MOST_CODES = 1 << 24
"""Largest code: float32 counts exactly up to it."""
SMALL_TABLE = 1 << 16
"""Entries that a table over codes may always have; a larger one has at most as many as there are weights."""


def largest_code(largest: float, b: int) -> int:
    """floor(largest 2^b): no candidate's code is larger. largest: |mu| of a float32 weight."""
    return math.floor(math.ldexp(largest, b))


def code_dtype(largest: float, b: int) -> torch.dtype:
    """Integer type that holds the codes of weights with |mu| <= largest."""
    return torch.int16 if largest_code(largest, b) <= torch.iinfo(torch.int16).max else torch.int32


def largest_magnitude(values: Tensor) -> float:
    """max |x| over (n,), n >= 1, in one pass without a copy; NaN if there is one."""
    low, high = values.aminmax()  # both NaN, if one is
    return max(-float(low), float(high))


def check_magnitudes(
    mu: Tensor, b: int, *, most: int, where: Callable[[int], str], remedy: Callable[[int], str]
) -> None:
    """Refuse weights that are too large for the grid. One pass.

    Args:
        mu: (n,) finite float32, n >= 0.
        most: largest code that is legal.
        where: names the weight at a position of mu.
        remedy: says what to do, given the largest b on which the weight were legal, which may be negative.

    Raises:
        ConfigError: |mu| 2^b exceeds `most` by a step or more; names the largest weight, its size and what is legal.
    """
    if not len(mu):
        return
    largest = largest_magnitude(mu)
    steps = largest_code(largest, b)
    if steps > most:
        coarser = math.ceil(math.log2(steps / most))
        raise ConfigError(
            f"mu {where(int(mu.abs().argmax()))} is {largest:g}, which is {steps:,} steps of 2^-{b}; legal: at most "
            f"{most:,} (2^{math.log2(most):g}). {remedy(b - coarser)}"
        )


def place(index: int, sizes: Mapping[str, int] | None) -> str:
    """Tensor and element of a weight, in words. index: in flat order. sizes: elements of each tensor, in that order."""
    left = index
    for name, size in (sizes or {}).items():
        if left < size:
            return f"of '{name}', element {left},"
        left -= size
    return f"of weight {index} in flat order"
