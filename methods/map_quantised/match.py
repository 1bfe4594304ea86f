"""The number of components that fills a given number of bytes."""

from __future__ import annotations

from collections.abc import Callable

CORRECTIONS = 3


def largest(size: Callable[[int], float], limit: float, most: int) -> int:
    """The largest k in 1..most with size(k) <= limit, 0 if 1 has more: by doubling, then bisection.

    Where `size` is not monotone: a k within the limit, whose successor is not.
    """
    low, high = 0, 1
    while high <= most and size(high) <= limit:
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= limit else (low, middle)
    return low


def largest_within(limit: int, size: Callable[[int], int], estimate: Callable[[int], float], most: int) -> int:
    """As `largest`, and as exact, with a few calls of `size` only.

    estimate: a cheap forecast of `size`; its error should change slowly with k.
    """
    k = 1
    for _ in range(CORRECTIONS):
        error = size(k) - estimate(k)
        k = max(1, largest(estimate, limit - error, most))
    while k > 0 and size(k) > limit:
        k -= 1
    while 0 < k < most and size(k + 1) <= limit:
        k += 1
    return k
