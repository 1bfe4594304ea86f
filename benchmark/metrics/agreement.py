"""Closeness to a named reference predictive on the same inputs: agreement of arg-max and total variation."""

from __future__ import annotations

import numpy as np

from benchmark.errors import PredictionError
from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Metric, Value


def agreement(test: SplitPredictions, reference: SplitPredictions) -> Value:
    """Share of inputs on which both mean predictions have the same arg-max, in [0, 1].

    Raises:
        PredictionError: the two predictions differ in shape.
    """
    _check_same_shape(test, reference)
    return Value.from_samples(test.predicted == reference.predicted)


def total_variation(test: SplitPredictions, reference: SplitPredictions) -> Value:
    """mean_i (1/2) sum_k |p_ik - q_ik|, in [0, 1]; zero for equal predictions.

    Raises:
        PredictionError: the two predictions differ in shape.
    """
    _check_same_shape(test, reference)
    return Value.from_samples(0.5 * np.abs(test.probs - reference.probs).sum(axis=1))


def _check_same_shape(test: SplitPredictions, reference: SplitPredictions) -> None:
    if test.log_probs.shape != reference.log_probs.shape:
        raise PredictionError(
            f"predictions {test.log_probs.shape} and reference {reference.log_probs.shape} differ in shape; "
            "both must be of the same inputs and classes."
        )


_NEEDS = ("log_probs", "reference")
METRICS = (
    Metric("agreement", 1, "fraction", "up", (0, 1), _NEEDS, compute=agreement),
    Metric("tv", 1, "", "down", (0, 1), _NEEDS, compute=total_variation),
)
