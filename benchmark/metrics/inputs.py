"""The rules that stored predictions obey, checked once where arrays enter. Nothing is renormalised or clamped."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import Diverged, PredictionError
from benchmark.metrics.record import Floats, Integers

TOLERANCE = 1e-4
"""Largest |logsumexp_k log p| of a row; float32 rounding of 1000 classes stays far below it."""


class NotANumber(PredictionError, Diverged):
    """Predictions hold NaN: a `PredictionError` that gives the run the status `diverged`."""


def check_predictions(log_probs: ArrayLike, labels: ArrayLike, split: str = "") -> tuple[Floats, Integers]:
    """Log-probabilities (n, K) as float64 and labels (n,) as int64, or an error that names the first bad row.

    `split` is the prefix of the arrays' names in messages.

    Raises:
        PredictionError: see `check_log_probs` and `check_labels`.
    """
    checked = check_log_probs(log_probs, _join(split, "log_probs"))
    return checked, check_labels(labels, checked.shape, _join(split, "labels"))


def check_log_probs(log_probs: ArrayLike, name: str = "log_probs") -> Floats:
    """(n, K) log-probabilities as float64: n >= 1, K >= 2, finite or -inf, each row's probabilities summing to 1.

    Raises:
        NotANumber: a NaN.
        PredictionError: a wrong shape or type, or a row with |logsumexp| > 1e-4 (logits, most of the time).
    """
    given = np.asarray(log_probs)
    if given.dtype.kind != "f":
        raise PredictionError(f"'{name}' has dtype {given.dtype}, expected log-probabilities in floating point.")
    if given.ndim != 2 or given.shape[0] < 1 or given.shape[1] < 2:
        raise PredictionError(f"'{name}' has shape {given.shape}, expected (n, K) with n >= 1 and K >= 2.")
    checked = given.astype(np.float64)
    with np.errstate(over="ignore", divide="ignore"):
        sums = np.exp(checked).sum(axis=1)
        bad = ~(np.abs(np.log(sums)) <= TOLERANCE)  # negated, so that NaN counts as bad
    if bad.any():
        row = int(bad.argmax())
        if np.isnan(checked[row]).any():
            raise NotANumber(f"row {row} of '{name}' holds NaN: the predictions diverged.")
        raise PredictionError(
            f"row {row} of '{name}' sums to {sums[row]:.6g}, expected 1 within {TOLERANCE:g}.\n"
            "  Did the network return logits? Return log-probabilities or let the suite pool them."
        )
    return checked


def check_labels(labels: ArrayLike, shape: tuple[int, ...], name: str = "labels") -> Integers:
    """(n,) class indices as int64, for predictions of shape (n, K).

    Raises:
        PredictionError: not integers, not n of them, or a label outside 0..K-1.
    """
    given = np.asarray(labels)
    n, classes = shape
    if given.dtype.kind not in "iu":
        raise PredictionError(f"'{name}' has dtype {given.dtype}, expected integers.")
    if given.shape != (n,):
        raise PredictionError(f"'{name}' has shape {given.shape}, expected ({n},), one label per row of predictions.")
    bad = (given < 0) | (given >= classes)
    if bad.any():
        row = int(bad.argmax())
        raise PredictionError(f"row {row} of '{name}' is {given[row]}, expected a class in 0..{classes - 1}.")
    return given.astype(np.int64)


def check_expected_entropy(values: ArrayLike, n: int, name: str = "expected_entropy") -> Floats:
    """(n,) expected entropies in nats as float64.

    Raises:
        NotANumber: a NaN.
        PredictionError: not floating point, not n of them, or infinite.
    """
    given = check_score(values, n, name)
    bad = ~np.isfinite(given)
    if bad.any():
        row = int(bad.argmax())
        kind = NotANumber if np.isnan(given[row]) else PredictionError
        raise kind(f"row {row} of '{name}' is {given[row]}, expected a finite entropy in nats.")
    return given


def check_score(values: ArrayLike, n: int, name: str = "score") -> Floats:
    """(n,) uncertainty scores as float64, of any size and sign; infinite and NaN are allowed.

    Raises:
        PredictionError: not floating point or not n of them.
    """
    given: NDArray[Any] = np.asarray(values)
    if given.dtype.kind != "f" or given.shape != (n,):
        raise PredictionError(
            f"'{name}' is {given.dtype} of shape {given.shape}, expected floating point of shape ({n},)."
        )
    return given.astype(np.float64)


def _join(split: str, name: str) -> str:
    return f"{split}.{name}" if split else name
