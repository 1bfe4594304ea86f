"""What weights must be before they are clustered."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from benchmark import ConfigError, Diverged
from methods.probabilistic_weight_fixing.candidates import MOST_CODES, largest_code
from methods.probabilistic_weight_fixing.free import Free


def check_free(free: Free, b: int, sizes: Mapping[str, int] | None) -> None:
    """sizes: elements of each tensor, in flat order; to name the one at fault.

    Raises:
        Diverged: mu or sigma is not finite.
        ConfigError: a weight is too large for a grid of steps 2^-b.
    """
    if not len(free):
        return
    for what, values in (("mu", free.mu), ("sigma", free.sigma)):
        if not math.isfinite(largest_magnitude(values)):
            where = _where(free, (~values.isfinite()).nonzero()[0, 0], sizes)
            raise Diverged(
                f"{what} {where} is not finite, so that it cannot be fixed to a value. Lower lr or clip_norm, or start "
                "from a base network whose weights are finite."
            )
    largest = largest_magnitude(free.mu)
    if largest_code(largest, b) > MOST_CODES:
        legal = b - math.ceil(math.log2(largest_code(largest, b) / MOST_CODES))
        raise ConfigError(
            f"mu {_where(free, free.mu.abs().argmax(), sizes)} is {largest:g}, which is {largest_code(largest, b):,} "
            f"steps of 2^-{b}; legal: at most {MOST_CODES:,} (2^24). "
            + (f"Set b to at most {legal}." if legal >= 1 else "Rescale the network: no b in 1..15 is coarse enough.")
        )


def largest_magnitude(values: Tensor) -> float:
    """max |x| over (n,), n >= 1, in one pass without a copy; NaN if there is one."""
    low, high = values.aminmax()  # both NaN, if one is
    return max(-float(low), float(high))


def _where(free: Free, position: Tensor, sizes: Mapping[str, int] | None) -> str:
    """Tensor and element of a free weight."""
    index = int(free.index[position])
    for name, size in (sizes or {}).items():
        if index < size:
            return f"of '{name}', element {index},"
        index -= size
    return f"of weight {index} in flat order"
