"""What encoding cost in likelihood: NLL of the decoded posterior minus NLL of the posterior as it was fitted."""

from __future__ import annotations

from math import inf

from benchmark.metrics.nll import nll
from benchmark.metrics.predictions import Predictions
from benchmark.metrics.record import Metric, Value


def delta_nll_decode(decoded: Predictions, before: Predictions | None) -> Value:
    """nll(decoded) - nll(before) on the test split, in nats; positive means that encoding hurt.

    `before` is None when decoding gives back the very same draws: the difference is then 0 without computing it.
    """
    if before is None:
        return Value.ok(0.0, len(decoded.test))
    after, original = nll(decoded.test), nll(before.test)
    if after.value is None or original.value is None:
        return Value.failed("one of the two likelihoods is infinite")
    return Value.ok(after.value - original.value, len(decoded.test))


METRIC = Metric(
    "delta_nll_decode", 1, "nat", "down", (-inf, inf), ("log_probs", "labels", "before"), compute=delta_nll_decode
)
