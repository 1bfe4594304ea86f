"""Accuracy, NLL and calibration on corrupted test data: means over the task's corruptions.

A result is named by the severity, `shift_nll.3`; `shift_nll.mean` is the mean over all severities of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

import numpy as np

from benchmark.metrics.accuracy import accuracy
from benchmark.metrics.ece import ece15
from benchmark.metrics.nll import nll
from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Metric, Value

MEAN = "mean"
"""The suffix of the mean over severities, beside the severities themselves; where there is one severity, it is that."""

Corrupted = Mapping[str, SplitPredictions]
"""Set -> predictions, every set of the same size: corruptions at one severity, or at several."""


def mean_over(measure: Callable[[SplitPredictions], Value]) -> Callable[[Corrupted], Value]:
    """The metric whose value is the plain mean of `measure` over sets (Hendrycks and Dietterich 2019, without division
    by a baseline's error). `extra.sets` holds the single values; infinite where a single one is."""

    def compute(sets: Corrupted) -> Value:
        values = {name: split.once(measure) for name, split in sets.items()}
        n = sum(len(split) for split in sets.values())
        infinite = sorted(name for name, value in values.items() if value.state == "inf")
        each = {name: value.value for name, value in values.items() if value.value is not None}
        if infinite:
            return Value.infinite(n, {"sets": each, "infinite": infinite})
        return Value.ok(float(np.mean(list(each.values()))), n, extra={"sets": each})

    return compute


def groups(shifted: Mapping[int, Corrupted]) -> dict[str, Corrupted]:
    """Suffix of the result -> the sets that it is the mean of."""
    every = {f"{name}.{severity}": split for severity, sets in shifted.items() for name, split in sets.items()}
    return {**{str(severity): sets for severity, sets in shifted.items()}, MEAN: every}


_REFERENCE = "Hendrycks and Dietterich 2019"
_NEEDS = ("log_probs", "labels", "shifted")
METRICS = (
    Metric("shift_accuracy", 1, "fraction", "up", (0, 1), _NEEDS, reference=_REFERENCE, compute=mean_over(accuracy)),
    Metric("shift_nll", 1, "nat", "down", (0, inf), _NEEDS, reference=_REFERENCE, compute=mean_over(nll)),
    Metric("shift_ece15", 1, "fraction", "down", (0, 1), _NEEDS, reference=_REFERENCE, compute=mean_over(ece15)),
)
