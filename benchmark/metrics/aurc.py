"""Selective prediction: area under the risk-coverage curve, and its excess over the best order."""

from __future__ import annotations

import numpy as np

from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Bools, Floats, Metric, Value


def risk_coverage_area(score: Floats, wrong: Bools) -> float:
    """(1/n) sum_k risk_k, risk_k = share of errors among the k highest scores. score, wrong: (n,).

    Tied samples contribute their expectation over the order inside the block: with E errors among the N samples before
    it, a block of m samples and e errors adds sum_{t=1..m} (E + t e/m) / (N + t). Independent of the samples' order.

    >>> round(risk_coverage_area(np.array([3.0, 2.0, 1.0]), np.array([False, True, False])), 6)
    0.277778
    """
    n = len(score)
    _, block, sizes = np.unique(-score, return_inverse=True, return_counts=True)
    errors = np.bincount(block, weights=wrong, minlength=len(sizes))  # e per block, best score first
    sizes_before, errors_before = sizes.cumsum() - sizes, errors.cumsum() - errors
    of = np.repeat(np.arange(len(sizes)), sizes)  # (n,) block at each position
    position = np.arange(1, n + 1)
    inside = position - sizes_before[of]
    risks = (errors_before[of] + inside * (errors[of] / sizes[of])) / position
    return float(risks.sum() / n)


def aurc(test: SplitPredictions) -> Value:
    """Area under the risk-coverage curve of the confidence, in [0, 1] (Geifman and El-Yaniv 2017).

    The score is max_k log p: the logarithm keeps apart what the probability merges near 1. All tied: the error rate.
    """
    return Value.ok(test.once(_area), len(test))


def eaurc(test: SplitPredictions) -> Value:
    """`aurc` minus the area of the exact best order (all errors last), in [0, 1] (Geifman 2019).

    Not the logarithmic approximation of the best area. Zero when there are no errors.
    """
    n = len(test)
    wrong = int((~test.correct).sum())
    coverage = np.arange(n - wrong + 1, n + 1)
    best = float(((coverage - (n - wrong)) / coverage).sum() / n)
    return Value.ok(max(0.0, test.once(_area) - best), n)  # max: the two sums round differently


def _area(test: SplitPredictions) -> float:
    return risk_coverage_area(test.top_log_prob, ~test.correct)


_NEEDS = ("log_probs", "labels")
METRICS = (
    Metric("aurc", 1, "fraction", "down", (0, 1), _NEEDS, reference="Geifman and El-Yaniv 2017", compute=aurc),
    Metric("eaurc", 1, "fraction", "down", (0, 1), _NEEDS, reference="Geifman 2019", compute=eaurc),
)
