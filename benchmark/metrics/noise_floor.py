"""Noise floor of the calibration error: what a perfectly calibrated predictor with these confidences would get.

Consistency resampling (Broecker and Smith 2007): outcomes are drawn from the confidences themselves. The floor is
printed beside the calibration error and never subtracted from it; the difference estimates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmark.metrics.ece import BINS, Binning, calibration_error, equal_mass_bins, equal_width_bins
from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Floats, Metric, Value

REPLICATES = 1000
_CHUNK_BYTES = 4 * 2**20  # of uniform numbers at a time: stays in the cache, and far below 64 MiB in all


@dataclass(frozen=True, eq=False)
class Replicates:
    """Calibration errors (R,) of calibrated replicates, by binning; both come from the same outcomes."""

    equal_width: Floats
    equal_mass: Floats


def calibrated_replicates(test: SplitPredictions) -> Replicates:
    """1000 replicates of both calibration errors with outcomes drawn from the confidences."""
    width, mass = resample(test.confidence, (equal_width_bins, equal_mass_bins))
    return Replicates(width, mass)


def resample(confidence: Floats, binnings: tuple[Binning, ...], replicates: int = REPLICATES) -> list[Floats]:
    """Calibration errors (R,) per binning of outcomes o* = random((R, n)) < confidence, generator PCG64(0)."""
    n = len(confidence)
    generator = np.random.Generator(np.random.PCG64(0))
    # Bins depend on the confidence only, so that all binnings of a chunk are one product with their indicators.
    indicator = np.zeros((n, BINS * len(binnings)))
    for j, binning in enumerate(binnings):
        indicator[np.arange(n), BINS * j + binning(confidence)] = 1.0
    expected = confidence @ indicator
    errors = np.empty((replicates, len(binnings)))
    rows = max(1, _CHUNK_BYTES // (8 * n))
    for start in range(0, replicates, rows):
        stop = min(start + rows, replicates)
        outcomes = (generator.random((stop - start, n)) < confidence).astype(np.float64)
        sums = np.abs(outcomes @ indicator - expected).reshape(stop - start, len(binnings), BINS)
        errors[start:stop] = sums.sum(axis=2) / n
    return list(errors.T)


def ece15_floor(test: SplitPredictions) -> Value:
    """Expected `ece15` if every confidence were true, in [0, 1]."""
    return _floor(test.once(calibrated_replicates).equal_width, test)


def ece15m_floor(test: SplitPredictions) -> Value:
    """Expected `ece15m` if every confidence were true, in [0, 1]."""
    return _floor(test.once(calibrated_replicates).equal_mass, test)


def ece15_floor95(test: SplitPredictions) -> Value:
    """95% quantile of `ece15` if every confidence were true; below it, miscalibration cannot be told from noise."""
    return _floor95(test.once(calibrated_replicates).equal_width, test)


def ece15m_floor95(test: SplitPredictions) -> Value:
    """95% quantile of `ece15m` if every confidence were true."""
    return _floor95(test.once(calibrated_replicates).equal_mass, test)


def ece15_p(test: SplitPredictions) -> Value:
    """(1 + #{ECE* >= ECE}) / (R + 1), the p-value of perfect calibration against `ece15`."""
    return _p_value(test.once(calibrated_replicates).equal_width, test, equal_width_bins)


def ece15m_p(test: SplitPredictions) -> Value:
    """(1 + #{ECE* >= ECE}) / (R + 1), the p-value of perfect calibration against `ece15m`."""
    return _p_value(test.once(calibrated_replicates).equal_mass, test, equal_mass_bins)


def _floor(replicates: Floats, test: SplitPredictions) -> Value:
    return Value.ok(float(replicates.mean()), len(test))


def _floor95(replicates: Floats, test: SplitPredictions) -> Value:
    return Value.ok(float(np.quantile(replicates, 0.95)), len(test))


def _p_value(replicates: Floats, test: SplitPredictions, binning: Binning) -> Value:
    observed = calibration_error(binning(test.confidence), test.confidence, test.correct.astype(np.float64))
    # 1e-12: a replicate with the observed outcomes counts, whatever the order in which its sums were rounded.
    as_large = int((replicates >= observed - 1e-12).sum())
    return Value.ok((1 + as_large) / (len(replicates) + 1), len(test))


def _metric(name: str, needs: tuple[str, ...], compute: Callable[[SplitPredictions], Value]) -> Metric:
    reference = "Broecker and Smith 2007"
    return Metric(name, 1, "fraction", "none", (0, 1), needs, reference=reference, compute=compute)


METRICS = (
    _metric("ece15_floor", ("log_probs",), ece15_floor),
    _metric("ece15_floor95", ("log_probs",), ece15_floor95),
    _metric("ece15_p", ("log_probs", "labels"), ece15_p),
    _metric("ece15m_floor", ("log_probs",), ece15m_floor),
    _metric("ece15m_floor95", ("log_probs",), ece15m_floor95),
    _metric("ece15m_p", ("log_probs", "labels"), ece15m_p),
)
