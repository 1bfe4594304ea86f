"""Types of settings."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import AfterValidator

Scope = Literal["weights_and_biases", "weights"]
"""What is fixed of convolutional, linear and attention layers."""


def _rise_to_one(fractions: tuple[float, ...]) -> tuple[float, ...]:
    rising = all(a < b for a, b in itertools.pairwise(fractions))
    if not rising or not all(0 < p <= 1 for p in fractions):
        raise ValueError(f"{list(fractions)} are no rising shares in (0, 1]; for example [0.5, 0.9, 1.0]")
    return fractions


Fractions = Annotated[tuple[float, ...], AfterValidator(_rise_to_one)]
"""Shares of the weights that are fixed after each round, rising, in (0, 1]."""
