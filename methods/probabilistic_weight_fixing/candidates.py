"""The values that weights may be fixed to: sums of few powers of two.

With T = b + ceil(log2 M) - 1, M the largest free magnitude, a code 0 <= g <= M 2^b is admitted at order omega when
popcount(g mod 2^T) + floor(g / 2^T) <= omega: the powers are 2^0..2^T. Nothing is subtracted (7/8 takes three).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from methods.fixed_weights.grid import largest_code

Codes = NDArray[np.int64]


def candidate_codes(omega: int, largest: float, b: int) -> Codes:
    """Rising codes (K,) of the values code 2^-b that are sums of at most `omega` powers of two, and their negatives.

    The powers run from 2^-b to 2^(e-1), e = ceil(log2 largest), and may repeat. Sums stay within `largest`, the
    magnitude of the largest free weight. Only 0 where largest <= 2^-b. In time and memory O(K).
    """
    top = _top(largest, b)
    if top < 0:
        return np.zeros(1, dtype=np.int64)
    most = largest_code(largest, b)
    tops = range(min(omega, most >> top) + 1)
    codes = np.concatenate([(times << top) + _sums(top, omega - times) for times in tops])
    codes = codes[: np.searchsorted(codes, most, side="right")]
    return np.concatenate([-codes[:0:-1], codes])


def candidate_bound(omega: int, largest: float, b: int) -> int:
    """At least as many as `candidate_codes` has, without making them."""
    top = _top(largest, b)
    if top < 0:
        return 1
    tops = range(min(omega, largest_code(largest, b) >> top) + 1)
    return 2 * sum(math.comb(top, ones) for times in tops for ones in range(omega - times + 1))


def candidates_from(starts: Codes, omega: int, largest: float, b: int) -> Codes:
    """Rising codes (m,) of the first candidate at or above each of `starts` (n,), where there is one, and 0.

    The greedy choice of the candidate that most intervals cover needs no other than those at their starts: any other
    one is covered by no interval that does not cover its predecessor, and of equal counts the smaller value is taken.
    """
    top, most = _top(largest, b), largest_code(largest, b)
    if top < 0:
        return np.zeros(1, dtype=np.int64)
    starts = np.unique(starts.clip(-most, most + 1))
    up = _raised(starts[starts > 0], omega, top, most)
    down = -_lowered(-starts[starts < 0], omega, top)
    return np.unique(np.concatenate([down, np.zeros(1, dtype=np.int64), up[up <= most]]))


def _top(largest: float, b: int) -> int:
    """T; negative where 0 is the only candidate."""
    return b + _ceil_log2(largest) - 1


def _terms(codes: Codes, top: int) -> Codes:
    """Powers of two that codes (n,) >= 0 are sums of."""
    terms: Codes = np.bitwise_count(codes & ((1 << top) - 1)) + (codes >> top)
    return terms


def _sums(top: int, omega: int) -> Codes:
    """Rising (m,): numbers below 2^top with at most `omega` ones."""
    found, ones = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for bit in range(top):
        more = ones < omega
        found = np.concatenate([found, found[more] + (1 << bit)])
        ones = np.concatenate([ones, ones[more] + 1])
    return found


def _raised(codes: Codes, omega: int, top: int, most: int) -> Codes:
    """The first sum of at most `omega` powers at or above each of codes (n,) > 0, or a number beyond `most`. Adding its
    lowest one is a number's shortest way up to no more ones."""
    found = codes.copy()
    while len(over := ((_terms(found, top) > omega) & (found <= most)).nonzero()[0]):
        found[over] += found[over] & -found[over]
    return found


def _lowered(codes: Codes, omega: int, top: int) -> Codes:
    """The last sum of at most `omega` powers at or below each of codes (n,) > 0: its lowest ones go."""
    found = np.minimum(codes, omega << top)
    while len(over := (_terms(found, top) > omega).nonzero()[0]):
        found[over] -= found[over] & -found[over]
    return found


def _ceil_log2(x: float) -> int:
    """Exact, for x > 0; 0 lies below every grid."""
    if x == 0:
        return -(1 << 15)
    mantissa, exponent = math.frexp(x)
    return exponent - 1 if mantissa == 0.5 else exponent
