"""Distance to the Bayes-optimal prediction, for tasks whose exact p(y | x) is known."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from benchmark.metrics.ece import calibration_error, equal_width_bins, reliability
from benchmark.metrics.predictions import SplitPredictions, finite_or_zero
from benchmark.metrics.record import Floats, Metric, Value


def excess_nll(test: SplitPredictions, true_log_probs: Floats) -> Value:
    """mean_i sum_k p*_ik (log p*_ik - log p_ik) in nats: the NLL above that of the true law, in [0, inf].

    true_log_probs: (n, K) exact log p(y | x). No label enters the value, so that it has no label noise. `extra`:
    `bayes_nll`, the mean entropy of the true law; `label_sampled`, the same excess on the labels, mean[log p*_y - log
    p_y], absent when a label has probability zero. Where p is 0 and p* is not, the state is `inf` (`extra.n_inf`).
    """
    true_probs = np.exp(true_log_probs)
    entropies = 0.0 - np.einsum("ij,ij->i", true_probs, finite_or_zero(true_log_probs))
    impossible = (np.isneginf(test.log_probs) & (true_probs > 0)).any(axis=1)
    cross = -np.einsum("ij,ij->i", true_probs, finite_or_zero(test.log_probs))
    extra: dict[str, Any] = {"bayes_nll": entropies.mean()}
    on_labels = _on_labels(test, true_log_probs)
    if on_labels is not None:
        extra["label_sampled"] = on_labels
    if impossible.any():
        return Value.infinite(len(test), {**extra, "n_inf": int(impossible.sum())})
    return Value.from_samples(cross - entropies, extra)


def true_ece15(test: SplitPredictions, true_log_probs: Floats) -> Value:
    """`ece15` with each 0/1 outcome replaced by the true probability of the predicted class, in [0, 1].

    Without the noise of labels it has no noise floor. `extra.mean_abs_error` = mean |c_i - p*_{i,yhat}|, the
    calibration error without bins, and the reliability diagram with `true_probability` per bin.
    """
    true = np.exp(true_log_probs[np.arange(len(test)), test.predicted])
    bins = equal_width_bins(test.confidence)
    extra = {
        "mean_abs_error": np.abs(test.confidence - true).mean(),
        **reliability(bins, test.confidence, true, "true_probability"),
    }
    return Value.ok(calibration_error(bins, test.confidence, true), len(test), extra=extra)


def _on_labels(test: SplitPredictions, true_log_probs: Floats) -> float | None:
    ours, true = test.label_log_prob, true_log_probs[np.arange(len(test)), test.labels]
    if np.isneginf(true).any() or np.isneginf(ours).any():
        return None
    return float((true - ours).mean())


METRICS = (
    Metric("excess_nll", 1, "nat", "down", (0, inf), ("log_probs", "labels", "true_log_probs"), compute=excess_nll),
    Metric("true_ece15", 1, "fraction", "down", (0, 1), ("log_probs", "true_log_probs"), compute=true_ece15),
)
