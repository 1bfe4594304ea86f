"""Expected calibration error of the top label, in 15 bins of equal width or of equal mass.

A low calibration error alone is won by predicting the class prior: read it next to `nll` and `accuracy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Floats, Integers, Metric, Value

BINS = 15

Binning = Callable[[Floats], Integers]


def equal_width_bins(confidence: Floats) -> Integers:
    """(n,) bin of each confidence: width 1/15, left-closed, the last bin closed.

    >>> equal_width_bins(np.array([0.0, 0.6, 1.0])).tolist()
    [0, 9, 14]
    """
    # 1e-5: multiples of 1/15 are common (votes, few draws), and 0.6 stored as a float32 log comes back as 0.5999999.
    return np.minimum(np.floor(BINS * confidence + 1e-5), BINS - 1).astype(np.int64)


def equal_mass_bins(confidence: Floats) -> Integers:
    """(n,) bin of each confidence, 15 bins of equal mass with ties kept together.

    Equal values at positions s..e-1 of the sorted confidences go to bin floor(15 (s + e) / (2 n)), in integers: defined
    for every n >= 1 and independent of the order of samples. For n < 15 most bins hold one sample.
    """
    _, block, sizes = np.unique(confidence, return_inverse=True, return_counts=True)
    ends = sizes.cumsum()
    middles = BINS * (2 * ends - sizes) // (2 * len(confidence))  # s + e = 2 e - size
    return middles[block]


def calibration_error(bins: Integers, confidence: Floats, outcome: Floats) -> float:
    """(1/n) sum_b |sum_{i in b} (outcome_i - confidence_i)|; empty bins contribute 0. All arrays (n,)."""
    sums = np.bincount(bins, weights=outcome - confidence, minlength=BINS)
    return float(np.abs(sums).sum() / len(confidence))


def reliability(bins: Integers, confidence: Floats, outcome: Floats, outcome_name: str) -> dict[str, Any]:
    """Per bin: the count, the mean confidence and the mean outcome (None where the bin is empty)."""
    counts = np.bincount(bins, minlength=BINS)

    def means(values: Floats) -> list[float | None]:
        sums = np.bincount(bins, weights=values, minlength=BINS)
        return [float(total) / int(count) if count else None for total, count in zip(sums, counts, strict=True)]

    return {"counts": counts.tolist(), "confidence": means(confidence), outcome_name: means(outcome)}


def ece15(test: SplitPredictions) -> Value:
    """Expected calibration error in 15 equal-width bins, in [0, 1] (Naeini 2015; Guo 2017).

    The confidence is the top-label probability for every K >= 2. `extra` holds the reliability diagram: `counts`,
    mean `confidence` and `accuracy` per bin. |gap| <= ece15.
    """
    return _ece(test, equal_width_bins)


def ece15m(test: SplitPredictions) -> Value:
    """Expected calibration error in 15 bins of equal mass, in [0, 1] (Nguyen and O'Connor 2015); `extra` as `ece15`."""
    return _ece(test, equal_mass_bins)


def _ece(test: SplitPredictions, binning: Binning) -> Value:
    bins, outcome = binning(test.confidence), test.correct.astype(np.float64)
    error = calibration_error(bins, test.confidence, outcome)
    return Value.ok(error, len(test), extra=reliability(bins, test.confidence, outcome, "accuracy"))


_NEEDS = ("log_probs", "labels")
METRICS = (
    Metric("ece15", 1, "fraction", "down", (0, 1), _NEEDS, reference="Naeini 2015; Guo 2017", compute=ece15),
    Metric("ece15m", 1, "fraction", "down", (0, 1), _NEEDS, reference="Nguyen and O'Connor 2015", compute=ece15m),
)
