"""The values that weights may be fixed to: sums of few powers of two."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

MOST_CODES = 1 << 24
"""Largest code: float32 counts exactly up to it, and a table over all codes stays below 300 MB."""


def candidate_codes(omega: int, largest: float, b: int) -> NDArray[np.int64]:
    """Rising codes (K,) of the values code 2^-b that are sums of at most `omega` powers of two, and their negatives.

    The powers run from 2^-b to 2^(e-1), e = ceil(log2 largest), and may repeat; nothing is subtracted (7/8 takes
    three). Sums stay within `largest`, the magnitude of the largest free weight. Only 0 where largest <= 2^-b.
    """
    top = b + _ceil_log2(largest) - 1
    if top < 0:
        return np.zeros(1, dtype=np.int64)
    codes = np.arange(largest_code(largest, b) + 1, dtype=np.int64)
    terms = np.bitwise_count(codes & ((1 << top) - 1)) + (codes >> top)
    admitted = codes[terms <= omega]
    return np.concatenate([-admitted[:0:-1], admitted])


def largest_code(largest: float, b: int) -> int:
    """floor(largest 2^b): no candidate's code is larger. largest: |mu| of a float32 weight."""
    return math.floor(math.ldexp(largest, b))


def code_dtype(largest: float, b: int) -> torch.dtype:
    """Integer type that holds the codes of weights with |mu| <= largest."""
    return torch.int16 if largest_code(largest, b) <= torch.iinfo(torch.int16).max else torch.int32


def _ceil_log2(x: float) -> int:
    """Exact, for x > 0; 0 lies below every grid."""
    if x == 0:
        return -(1 << 15)
    mantissa, exponent = math.frexp(x)
    return exponent - 1 if mantissa == 0.5 else exponent
