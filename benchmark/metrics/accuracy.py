"""Accuracy of the mean prediction, on the test set and on attacked test examples."""

from __future__ import annotations

from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Metric, Value


def accuracy(test: SplitPredictions) -> Value:
    """Share of samples whose label is the arg-max of the mean prediction, in [0, 1]; ties go to the lowest class.

    It is not the mean accuracy of the draws.
    """
    return Value.from_samples(test.correct)


METRIC = Metric("accuracy", 1, "fraction", "up", (0, 1), ("log_probs", "labels"), compute=accuracy)


def attacked_accuracy(attacked: SplitPredictions) -> Value:
    """Share of attacked test examples, the first ones of the test set, that are still classified correctly, in [0, 1].

    Low: the attack works, and a detector has something to detect. Examples that were wrong before count as wrong.
    """
    return Value.from_samples(attacked.correct)


ATTACKED = Metric(
    "attacked_accuracy",
    1,
    "fraction",
    "up",
    (0, 1),
    ("log_probs", "labels", "attacked"),
    reference="Madry 2018",
    compute=attacked_accuracy,
)
