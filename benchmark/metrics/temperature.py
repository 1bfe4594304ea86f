"""Temperature scaling fitted on validation data: what would remain if the scale of the logits were free.

q = softmax(beta log p_bar), beta = 1/T (Guo 2017). A post-hoc diagnostic: the arg-max, hence accuracy, does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from math import exp, log

import numpy as np

from benchmark.errors import PredictionError
from benchmark.metrics.ece import calibration_error, equal_width_bins
from benchmark.metrics.nll import mean_nll
from benchmark.metrics.predictions import SplitPredictions, finite_or_zero
from benchmark.metrics.record import Floats, Metric, Value

LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of beta and, by symmetry, of T."""
_BISECTIONS = 100
_FLAT = 1e-9  # underflow makes the slope at the bounds noise of either sign
_CHUNK = 2**16  # entries per pass: the exponentials stay in the cache


@dataclass(frozen=True)
class Scale:
    """The inverse temperature that minimises the validation NLL; `at_bound` when the minimum lies outside the range."""

    beta: float
    at_bound: bool


def fit_scale(val: SplitPredictions) -> Scale:
    """The root in beta of L'(beta) = mean[sum_k q_k z_k - z_y] on [0.05, 20], by 100 bisections in ln beta.

    Raises:
        PredictionError: a label has probability zero, which makes L infinite for every beta.
    """
    if np.isneginf(val.label_log_prob).any():
        raise PredictionError("zero probability at a validation label")
    # z shifted by the row's maximum: the same slope, and nothing overflows.
    margins = val.log_probs - val.top_log_prob[:, None]  # (n, K), <= 0
    label_mean = float((val.label_log_prob - val.top_log_prob).mean())
    # cache: the last bisections in ln beta ask for the same doubles beta again and again.
    slope = cache(partial(_slope, margins, finite_or_zero(margins), label_mean))
    if slope(HIGHEST) <= _FLAT:
        return Scale(HIGHEST, at_bound=True)
    if slope(LOWEST) >= -_FLAT:
        return Scale(LOWEST, at_bound=True)
    low, high = log(LOWEST), log(HIGHEST)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if slope(exp(middle)) < 0:
            low = middle
        else:
            high = middle
    return Scale(exp((low + high) / 2), at_bound=False)


def _slope(margins: Floats, finite: Floats, label_mean: float, beta: float) -> float:
    """L'(beta) from margins (n, K), the same with 0 for -inf, and the mean margin of the labels."""
    n, classes = margins.shape
    rows = max(1, _CHUNK // classes)
    total = 0.0
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        weights = np.exp(beta * margins[part])
        total += float((np.einsum("ij,ij->i", weights, finite[part]) / weights.sum(axis=1)).sum())
    return float(total / n - label_mean)


def _log_normaliser(split: SplitPredictions, beta: float) -> Floats:
    """(n,) logsumexp_k beta z_k."""
    top = split.top_log_prob
    sums: Floats = np.exp(beta * (split.log_probs - top[:, None])).sum(axis=1)
    return beta * top + np.log(sums)


def scaled_label_log_prob(split: SplitPredictions, beta: float) -> Floats:
    """(n,) log q of the labels after scaling by beta."""
    return beta * split.label_log_prob - _log_normaliser(split, beta)


def scaled_confidence(split: SplitPredictions, beta: float) -> Floats:
    """(n,) q of the predicted class after scaling by beta."""
    return np.exp(beta * split.top_log_prob - _log_normaliser(split, beta))


def nll_ts(test: SplitPredictions, val: SplitPredictions) -> Value:
    """Test NLL in nats after scaling by the temperature fitted on validation data; `extra.at_bound`.

    Raises:
        PredictionError: a validation label has probability zero.
    """
    scale = val.once(fit_scale)
    return mean_nll(scaled_label_log_prob(test, scale.beta), _details(scale))


def ece15_ts(test: SplitPredictions, val: SplitPredictions) -> Value:
    """Test `ece15` after scaling by the temperature fitted on validation data; errors as `nll_ts`."""
    scale = val.once(fit_scale)
    confidence = scaled_confidence(test, scale.beta)
    error = calibration_error(equal_width_bins(confidence), confidence, test.correct.astype(np.float64))
    return Value.ok(error, len(test), extra=_details(scale))


def temperature(test: SplitPredictions, val: SplitPredictions) -> Value:
    """T = 1/beta fitted on validation data, in [0.05, 20]; above 1 the predictions are over-confident.

    `n` counts validation samples; the test predictions are not read. Errors as `nll_ts`.
    """
    scale = val.once(fit_scale)
    return Value.ok(1 / scale.beta, len(val), extra=_details(scale))


def _details(scale: Scale) -> dict[str, bool]:
    return {"at_bound": True} if scale.at_bound else {}


_NEEDS = ("log_probs", "labels", "val")
METRICS = (
    Metric("nll_ts", 1, "nat", "down", (0, float("inf")), _NEEDS, reference="Guo 2017", compute=nll_ts),
    Metric("ece15_ts", 1, "fraction", "down", (0, 1), _NEEDS, reference="Guo 2017", compute=ece15_ts),
    Metric("temperature", 1, "", "none", (LOWEST, HIGHEST), _NEEDS, reference="Guo 2017", compute=temperature),
)
