"""Which weights are shared, and in units of what."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from benchmark import ConfigError, require_finite

log = logging.getLogger("bnnbench")

ADVICE = "Look at the run of 'map' that this one starts from."


def varying(names: tuple[str, ...], deviations: Mapping[str, float]) -> tuple[str, ...]:
    """The names whose tensors are not constant; the others, named in a warning, have no scale to be shared in.

    Raises:
        ConfigError: all are constant, or there is none.
        Diverged: a deviation is not finite; names the tensor.
    """
    if not names:
        raise ConfigError(
            "the source has no standard deviation for any weight of a convolutional, linear or attention layer. Legal "
            "sources: methods whose posterior spreads over such weights, or source: base."
        )
    for name in names:
        require_finite(deviations[name], f"the standard deviation of '{name}'", ADVICE)
    kept = tuple(name for name in names if deviations[name] > 0)
    constant = [name for name in names if deviations[name] == 0]
    if not kept:
        raise ConfigError(f"all weights that could be shared are constant within their tensors: {', '.join(constant)}")
    if constant:
        log.warning("%d tensors are constant and are not shared: %s", len(constant), ", ".join(constant[:5]))
    return kept
