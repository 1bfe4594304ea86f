"""Accuracy of the mean prediction."""

from __future__ import annotations

from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Metric, Value


def accuracy(test: SplitPredictions) -> Value:
    """Share of samples whose label is the arg-max of the mean prediction, in [0, 1]; ties go to the lowest class.

    It is not the mean accuracy of the draws.
    """
    return Value.from_samples(test.correct)


METRIC = Metric("accuracy", 1, "fraction", "up", (0, 1), ("log_probs", "labels"), compute=accuracy)
