"""What weights must be before they are clustered."""

from __future__ import annotations

import math
from collections.abc import Mapping

from benchmark import Diverged
from methods.fixed_weights.grid import MOST_CODES, check_magnitudes, largest_magnitude, place
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
            where = place(int(free.index[(~values.isfinite()).nonzero()[0, 0]]), sizes)
            raise Diverged(
                f"{what} {where} is not finite, so that it cannot be fixed to a value. Lower lr or clip_norm, or start "
                "from a base network whose weights are finite."
            )
    check_magnitudes(
        free.mu, b, most=MOST_CODES, where=lambda position: place(int(free.index[position]), sizes), remedy=coarser_grid
    )


def coarser_grid(b: int) -> str:
    """What to do where no grid finer than 2^-b is legal."""
    return f"Set b to at most {b}." if b >= 1 else "Rescale the network: no b in 1..15 is coarse enough."
