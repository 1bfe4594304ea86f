"""Total uncertainty: the entropy of the mean prediction."""

from __future__ import annotations

from math import inf

from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Metric, Value


def entropy(test: SplitPredictions) -> Value:
    """mean_i -sum_k p_ik log p_ik in nats, 0 log 0 = 0, in [0, ln K]; of the mean prediction, not of the draws."""
    return Value.from_samples(test.entropies)


METRIC = Metric("entropy", 1, "nat", "none", (0, inf), ("log_probs",), compute=entropy)
