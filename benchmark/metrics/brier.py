"""Brier score of the mean prediction."""

from __future__ import annotations

import numpy as np

from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Metric, Value


def brier(test: SplitPredictions) -> Value:
    """mean_i sum_k (p_ik - 1[k = y_i])^2, in [0, 2] (Brier 1950, sum over classes).

    Of the mean prediction, not averaged over members. For K = 2 it is twice the one-column Brier score.
    """
    others = np.einsum("ij,ij->i", test.probs, test.probs)
    label = np.exp(test.label_log_prob)
    # (1 - p_y)^2 + sum_{k != y} p_k^2 with the square of p_y taken out of the full sum; rounding may leave -1e-17.
    return Value.from_samples(np.maximum(others - label**2, 0.0) + (1.0 - label) ** 2)


METRIC = Metric("brier", 1, "", "down", (0, 2), ("log_probs", "labels"), reference="Brier 1950", compute=brier)
