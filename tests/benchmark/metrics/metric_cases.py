"""Predictions that several tests of metrics share: the fixture F8, random ones, and a hypothesis strategy."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from benchmark.metrics.predictions import SplitPredictions

# A saturated row, a tie of confidence, a tie of the arg-max, two confidences on bin edges, zeros away from the label.
F8_PROBS = np.array(
    [
        (1, 0, 0),
        (0.9, 0.05, 0.05),
        (0.9, 0.1, 0),
        (0.2, 0.6, 0.2),
        (0.1, 0.68, 0.22),
        (0.4, 0.4, 0.2),
        (0.25, 0.25, 0.5),
        (0.45, 0.35, 0.2),
    ]
)
F8_LABELS = np.array([0, 0, 1, 1, 2, 1, 2, 0])


def log(probs):
    """Natural log with log 0 = -inf and no warning."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probs, dtype=np.float64))


def split(probs, labels=None, expected_entropy=None, score=None):
    """A split from probabilities (n, K) and labels."""
    labels = None if labels is None else np.asarray(labels)
    return SplitPredictions(log(probs), labels, expected_entropy, None if score is None else np.asarray(score, float))


def f8(dtype=np.float64):
    """The fixture F8, its log-probabilities stored as `dtype`."""
    return SplitPredictions(log(F8_PROBS).astype(dtype), F8_LABELS)


def random_probs(rng, n, classes, concentration=1.0):
    """(n, K) probabilities from a symmetric Dirichlet distribution, without ties."""
    draws = rng.gamma(concentration, size=(n, classes)) + 1e-12
    return draws / draws.sum(axis=1, keepdims=True)


def sample_labels(rng, probs):
    """One label per row, drawn from the row: predictions `probs` are then calibrated."""
    cumulative = probs.cumsum(axis=1)
    return (rng.random((len(probs), 1)) * cumulative[:, -1:] > cumulative).sum(axis=1)


@st.composite
def splits(draw, max_n=500, max_classes=20):
    """Splits of continuous, peaked or voted (ties, zeros, bin edges) predictions with random labels."""
    n, classes = draw(st.integers(1, max_n)), draw(st.integers(2, max_classes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["continuous", "peaked", "votes"]))
    if kind == "votes":
        votes = rng.multinomial(draw(st.integers(1, 15)), np.full(classes, 1 / classes), size=n)
        probs = votes / votes.sum(axis=1, keepdims=True)
    else:
        probs = random_probs(rng, n, classes, 1.0 if kind == "continuous" else 0.05)
    return split(probs, rng.integers(0, classes, size=n))
