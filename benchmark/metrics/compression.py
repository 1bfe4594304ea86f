"""Compression measured in bytes on disk, and what the decoded mean weights look like.

Every number of a compressed row belongs to the posterior that was decoded again from its own file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.record import Floats, Integers, Metric, Value

Weights = Mapping[str, NDArray[np.float32]]


def nbytes(size: int, parameters: int, buffers: int) -> Value:
    """Size of the posterior's file in bytes: everything that the decoder needs, checksum and norm buffers included."""
    return Value.ok(_checked(size, parameters, buffers))


def bits_per_weight(size: int, parameters: int, buffers: int) -> Value:
    """8 bytes / D, D the parameters of the untouched network with tied tensors counted once."""
    return Value.ok(8 * _checked(size, parameters, buffers) / parameters)


def ratio_fp32(size: int, parameters: int, buffers: int) -> Value:
    """4 (D + B) / bytes: against a float32 point estimate, B the floating-point buffer elements."""
    return Value.ok(4 * (parameters + buffers) / _checked(size, parameters, buffers))


def ratio_fp16(size: int, parameters: int, buffers: int) -> Value:
    """2 (D + B) / bytes: against a float16 point estimate."""
    return Value.ok(2 * (parameters + buffers) / _checked(size, parameters, buffers))


def ratio_mf32(size: int, parameters: int, buffers: int) -> Value:
    """4 (2 D + B) / bytes: against a full mean-field Gaussian in float32."""
    return Value.ok(4 * (2 * parameters + buffers) / _checked(size, parameters, buffers))


class WeightHistogram:
    """Distinct values and their counts per tensor of the decoded mean weights, compared by value (-0 equals 0).

    Snapshots of a sampling posterior are pooled: a tensor holds the weights of that name over all snapshots.

    Raises:
        ValueError: no weights, snapshots with different names, or a weight that is not finite.
    """

    def __init__(self, weights: Weights | Sequence[Weights]) -> None:
        snapshots: Sequence[Weights] = [weights] if isinstance(weights, Mapping) else weights
        if not snapshots or not any(np.size(tensor) for tensor in snapshots[0].values()):
            raise ValueError("there are no decoded weights")
        if any(snapshot.keys() != snapshots[0].keys() for snapshot in snapshots):
            raise ValueError("the snapshots hold weights of different names")
        self.tensors: dict[str, tuple[NDArray[np.float32], Integers]] = {}
        for name in snapshots[0]:
            pooled = np.concatenate([np.ravel(snapshot[name]) for snapshot in snapshots]).astype(np.float32)
            if not np.isfinite(pooled).all():
                raise ValueError(f"the decoded weights '{name}' are not finite")
            values, counts = np.unique(pooled + np.float32(0.0), return_counts=True)  # + 0: -0 becomes 0
            self.tensors[name] = (values, counts)

    @property
    def size(self) -> int:
        """Weights in all: D, or D times the snapshots."""
        return int(sum(counts.sum() for _, counts in self.tensors.values()))


def unique_values(histogram: WeightHistogram) -> Value:
    """Distinct float32 values over all decoded mean weights; `extra.per_tensor_max`, the most in one tensor."""
    values = [tensor for tensor, _ in histogram.tensors.values()]
    distinct = len(np.unique(np.concatenate(values)))
    return Value.ok(distinct, histogram.size, extra={"per_tensor_max": max(map(len, values))})


def sparsity(histogram: WeightHistogram) -> Value:
    """Share of the decoded mean weights that equal 0 exactly, in [0, 1]; buffers do not count."""
    zeros = sum(int(counts[values == 0].sum()) for values, counts in histogram.tensors.values())
    return Value.ok(zeros / histogram.size, histogram.size)


def entropy_bytes(histogram: WeightHistogram) -> Value:
    """sum_t (N_t H_t / 8 + 4 U_t): order-0 entropy of each tensor's values plus a float32 code book, in bytes.

    An estimate, never to stand for `bytes`: a context coder may go below it. Both parts are in `extra`.
    """
    coded = sum(_entropy_bits(counts) for _, counts in histogram.tensors.values()) / 8
    code_book = 4 * sum(len(values) for values, _ in histogram.tensors.values())
    return Value.ok(coded + code_book, histogram.size, extra={"coded": coded, "code_book": code_book})


def score_size(size: int, parameters: int, buffers: int) -> dict[str, dict[str, Any]]:
    """The metrics of a file's size: name -> JSON of its `Value`. D = `parameters`, B = `buffers`.

    >>> score_size(850, 1000, 20)["ratio_fp32"]["value"]
    4.8
    """
    return {metric.name: metric.compute(size, parameters, buffers).to_json(metric) for metric in SIZE_METRICS}


def score_weights(weights: Weights | Sequence[Weights] | None) -> dict[str, dict[str, Any]]:
    """The metrics of the decoded mean weights, one mapping or one per snapshot: name -> JSON of its `Value`.

    None, a posterior without `mean()`, gives `na`; weights that cannot be counted give `failed`.
    """
    if weights is None:
        missing = Value.na("the posterior defines no mean()")
    else:
        try:
            histogram = WeightHistogram(weights)
        except ValueError as error:
            missing = Value.failed(str(error))
        else:
            return {metric.name: metric.compute(histogram).to_json(metric) for metric in WEIGHT_METRICS}
    return {metric.name: missing.to_json(metric) for metric in WEIGHT_METRICS}


def _checked(size: int, parameters: int, buffers: int) -> int:
    if size < 1 or parameters < 1 or buffers < 0:
        raise ValueError(f"bytes {size}, parameters {parameters}, buffers {buffers}: expected >= 1, >= 1, >= 0")
    return size


def _entropy_bits(counts: Integers) -> float:
    """N H in bits of the empirical distribution with these counts."""
    shares: Floats = counts / counts.sum()
    return float(-(counts * np.log2(shares)).sum()) + 0.0  # + 0: a constant tensor gives 0, not -0


_FILE = ("bitstream",)
_MEAN = ("mean_weights",)
SIZE_METRICS = (
    Metric("bytes", 1, "byte", "down", (1, inf), _FILE, compute=nbytes),
    Metric("bits_per_weight", 1, "bit", "down", (0, inf), _FILE, compute=bits_per_weight),
    Metric("ratio_fp32", 1, "", "up", (0, inf), _FILE, compute=ratio_fp32),
    Metric("ratio_fp16", 1, "", "up", (0, inf), _FILE, compute=ratio_fp16),
    Metric("ratio_mf32", 1, "", "up", (0, inf), _FILE, compute=ratio_mf32),
)
WEIGHT_METRICS = (
    Metric("unique_values", 1, "", "none", (1, inf), _MEAN, compute=unique_values),
    Metric("entropy_bytes", 1, "byte", "none", (0, inf), _MEAN, compute=entropy_bytes),
    Metric("sparsity", 1, "fraction", "none", (0, 1), _MEAN, compute=sparsity),
)
METRICS = (*SIZE_METRICS, *WEIGHT_METRICS)
