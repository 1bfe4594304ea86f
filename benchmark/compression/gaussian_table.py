"""The discretised zero-mean Gaussians of `gaussian_indices`: a grid of widths and exact 24-bit tables.

Encoder and decoder must hold bit-identical models, whatever the machine. So a width is taken to its grid by the
bits of a float32, and the tables use only +, -, *, / and square roots, which IEEE 754 rounds correctly: no exp,
log or erf of a mathematical library, whose last bit differs between platforms.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.compression import ans

STEPS = 32  # grid points per octave: a width is wrong by 1.1 % at most, which costs at most 1.7e-4 bits
LOWEST, HIGHEST = -4, 62  # octaves; below 2^-4 all mass is on 0 already
WIDE = 6  # octave from which the lowest bits of a value are stored as they are
Buckets = npt.NDArray[np.uint16]


def to_buckets(std: npt.NDArray) -> Buckets:
    """Grid positions b of standard deviations: sigma is about 2^(b / 32 - 4), clamped to 2^-4 ... 2^62.

    Decided by the exponent and the highest 12 bits of the mantissa of the float32 value alone.

    Raises:
        ValueError: a width that is negative or not finite.
    """
    if not np.isfinite(std).all() or (std < 0).any():
        raise ValueError("std holds negative or non-finite values; it is measured in steps of the integers")
    single = np.clip(std, 2.0**LOWEST, 2.0**HIGHEST).astype(np.float32)
    bits = single.view(np.uint32)
    octave = (bits >> np.uint32(23)).astype(np.uint16) - np.uint16(127 + LOWEST)
    buckets: Buckets = octave * np.uint16(STEPS) + _mantissa_steps()[(bits >> np.uint32(11)) & np.uint32(4095)]
    return buckets


def shift_of(bucket: int) -> int:
    """Low bits that are split off, so that the remaining width lies in [2^5, 2^6); 0 below 2^6."""
    return max(0, bucket // STEPS + LOWEST - WIDE + 1)


def reach(bucket: int) -> int:
    """The largest magnitude in the table of an unshifted bucket: 8 sigma and a bit, the rest is escaped."""
    return math.ceil(8 * _sigma(bucket)) + 8


@functools.cache
def model(bucket: int) -> Any:
    """The coder's model for an unshifted bucket, over -reach ... reach and the escape symbol, in this order."""
    return ans.model(table(bucket))


@functools.cache
def table(bucket: int) -> ans.Frequencies:
    """Frequencies (2 reach + 2,) of an unshifted bucket, the escape last.

    p(k) = Phi((k + 1/2) / sigma) - Phi((k - 1/2) / sigma), floored to multiples of 2^-38.
    """
    sigma, k_max = _sigma(bucket), reach(bucket)
    inner = _half_mass((np.arange(k_max + 1, dtype=np.float64) + 0.5) / sigma)
    tail = np.maximum(np.diff(inner), 0.0)
    p = np.concatenate([tail[::-1], 2 * inner[:1], tail, np.zeros(1)])
    return ans.frequencies((p * 2.0**38).astype(np.int64))


def _half_mass(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Phi(x) - 1/2 for x >= 0, absolute error 1e-12: phi(x) sum_n x^(2n+1) / (1 3 5 ... (2n+1)).

    All terms are positive (Abramowitz and Stegun 26.2.11), and 160 of them suffice up to the cut at x = 8.
    """
    x = np.minimum(x, 8.0)
    square = x * x
    term, total = x, x
    for n in range(1, 160):
        term = term * square / (2 * n + 1)
        total = total + term
    return np.minimum(_exp_minus(square * 0.5) * total * 0.3989422804014327, 0.5)


def _exp_minus(y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """exp(-y) for 0 <= y <= 32: the Taylor polynomial of exp(-y / 1024), squared ten times."""
    z = y / 1024
    total = np.ones_like(z)
    for n in range(9, 0, -1):
        total = 1 - total * z / n
    for _ in range(10):
        total = total * total
    return total


def _sigma(bucket: int) -> float:
    """2^(bucket / 32 - 4)."""
    return _roots()[2 * (bucket % STEPS)] * 2.0 ** (bucket // STEPS + LOWEST)


@functools.cache
def _roots() -> tuple[float, ...]:
    """2^(i / 64), i = 0 ... 63, from square roots and products."""
    base = 2.0
    for _ in range(6):
        base = math.sqrt(base)
    roots = [1.0]
    for _ in range(63):
        roots.append(roots[-1] * base)
    return tuple(roots)


@functools.cache
def _mantissa_steps() -> npt.NDArray[np.uint16]:
    """Steps 0 ... 32 within an octave for each value of the highest 12 mantissa bits; the nearest in log."""
    mantissa = 1 + np.arange(4096) / 4096
    return np.searchsorted(np.array(_roots()[1::2]), mantissa, side="right").astype(np.uint16)
