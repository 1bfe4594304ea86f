"""Cost of training and prediction: definitions and arithmetic. The measuring happens where the work is done."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from benchmark.metrics.record import Metric, Value


def train_seconds(attempts: Sequence[float], base: float = 0.0) -> Value:
    """Wall seconds inside `fit`, summed over all attempts, work lost to kills included; `extra.attempts`.

    A killed attempt counts up to its last heartbeat. Waiting, data download, encoding and scoring are not in it.
    `base` adds the seconds of the base run, for the column `+ base`.

    >>> train_seconds([610.0, 300.0], base=1200.0).value
    2110.0
    """
    if not attempts or min(*attempts, base) < 0:
        raise ValueError(f"attempts {list(attempts)} and base {base}: expected at least one attempt, seconds >= 0")
    return Value.ok(sum(attempts) + base, extra={"attempts": len(attempts)})


def device_hours(seconds: float, devices: int) -> Value:
    """Training seconds times devices, in hours."""
    return Value.ok(seconds * devices / 3600)


def peak_memory(attempts: Sequence[int]) -> Value:
    """The largest peak over attempts, in bytes."""
    return Value.ok(max(attempts))


def latency_ms(milliseconds: Sequence[float]) -> Value:
    """Median time of one whole prediction (draws made, S forwards, pooling); `extra.iqr`, the inter-quartile range."""
    low, median, high = np.quantile(np.asarray(milliseconds, dtype=np.float64), [0.25, 0.5, 0.75])
    return Value.ok(float(median), len(milliseconds), extra={"iqr": high - low})


def macs(flops: int, draws: int) -> Value:
    """Multiply-accumulates of one prediction of one input: S times half the floating-point operations of one forward.

    Counted on the base architecture. Norm layers, activations, pooling, bias, drawing and de-quantising do not count;
    sparsity and low bit-width earn no discount.

    >>> macs(2 * 18_944, draws=30).value
    568320.0
    """
    return Value.ok(draws * flops / 2)


_RUN = ("run_folder",)
METRICS = (
    Metric("train_seconds", 1, "s", "down", (0, inf), _RUN, compute=train_seconds),
    Metric("device_hours", 1, "h", "down", (0, inf), _RUN, compute=device_hours),
    Metric("peak_memory", 1, "byte", "down", (0, inf), _RUN, compute=peak_memory),
    Metric("latency_ms", 1, "ms", "down", (0, inf), _RUN, compute=latency_ms),
    Metric("macs", 1, "MAC", "down", (0, inf), _RUN, compute=macs),
)
