"""Signed calibration gap: mean confidence minus accuracy."""

from __future__ import annotations

from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Metric, Value


def gap(test: SplitPredictions) -> Value:
    """Mean top-label confidence minus accuracy, in [-1, 1]; positive means over-confident, zero is best.

    |gap| is a lower bound of every binned calibration error.
    """
    return Value.from_samples(test.confidence - test.correct)


METRIC = Metric("gap", 1, "fraction", "zero", (-1, 1), ("log_probs", "labels"), compute=gap)
