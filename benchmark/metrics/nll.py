"""Negative log-likelihood of the mean prediction."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Floats, Metric, Value


def nll(test: SplitPredictions) -> Value:
    """-mean_i log p_bar(y_i | x_i) in nats, in [0, inf].

    Of the log of the mean probability: neither the mean of the draws' own NLLs nor the soft-max of mean logits. A zero
    probability at a label gives the state `inf`, with `extra.n_inf` and `extra.nll_finite`, the mean of the rest (a
    diagnostic, absent when nothing is left).
    """
    return mean_nll(test.label_log_prob)


def mean_nll(label_log_prob: Floats, extra: Mapping[str, Any] | None = None) -> Value:
    """The value for log-probabilities (n,) of the labels; `extra` is added to the details."""
    finite = np.isfinite(label_log_prob)
    if finite.all():
        return Value.from_samples(0.0 - label_log_prob, extra)  # 0.0 -: plain negation turns 0 into -0
    details = {**(extra or {}), "n_inf": int((~finite).sum())}
    if finite.any():
        details["nll_finite"] = 0.0 - label_log_prob[finite].mean()
    return Value.infinite(len(label_log_prob), details)


METRIC = Metric("nll", 1, "nat", "down", (0, inf), ("log_probs", "labels"), compute=nll)
