"""Detection of out-of-distribution inputs by an uncertainty score. OOD is the positive class, larger = more OOD.

The score is part of the metric's name: `ood_auroc[msp]`, `ood_fpr95[entropy]`, `ood_fpr95_id[mi]`. The area under the
precision-recall curve is not reported: it depends on the ratio of OOD to ID samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmark.metrics.mutual_information import mutual_informations
from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Direction, Floats, Metric, Value

Score = Callable[[SplitPredictions], Floats]
Detection = Callable[[Floats, Floats], float]


def maximum_softmax(split: SplitPredictions) -> Floats:
    """(n,) -max_k log p, the score `msp` (Hendrycks and Gimpel 2017)."""
    return -split.top_log_prob


def predictive_entropy(split: SplitPredictions) -> Floats:
    """(n,) entropy of the mean prediction in nats, the score `entropy`."""
    return split.entropies


def auroc(id_scores: Floats, ood_scores: Floats) -> float:
    """P(u_ood > u_id) + P(u_ood = u_id) / 2, exactly, in [0, 1]. Scores (n,) and (m,).

    >>> auroc(np.array([0.1, 0.5]), np.array([0.5, 0.9]))
    0.875
    """
    ordered = np.sort(id_scores)
    needles = np.sort(ood_scores)  # sorted needles walk through the haystack in order: three times faster
    below = int(np.searchsorted(ordered, needles, "left").sum())
    not_above = int(np.searchsorted(ordered, needles, "right").sum())
    return (below + not_above) / (2 * len(id_scores) * len(ood_scores))


def fpr95(id_scores: Floats, ood_scores: Floats) -> float:
    """Share of ID scores >= t, t the largest score that at least 95% of the OOD scores reach (Liang 2018).

    Tied scores move together; 95% is decided in integers, 100 #{u_ood >= t} >= 95 m.
    """
    threshold = np.sort(ood_scores)[::-1][_reach95(len(ood_scores)) - 1]
    return float((id_scores >= threshold).mean())


def fpr95_id(id_scores: Floats, ood_scores: Floats) -> float:
    """The twin with ID positive: share of OOD scores <= t, t the smallest with 100 #{u_id <= t} >= 95 n."""
    threshold = np.sort(id_scores)[_reach95(len(id_scores)) - 1]
    return float((ood_scores <= threshold).mean())


def _reach95(n: int) -> int:
    """The smallest count k with 100 k >= 95 n."""
    return -(-95 * n // 100)


def detection(measure: Detection, score: Score) -> Callable[[SplitPredictions, SplitPredictions], Value]:
    """The metric (test predictions, OOD predictions) -> Value for one measure and one score; `n` counts both."""

    def compute(test: SplitPredictions, ood: SplitPredictions) -> Value:
        value = measure(test.once(score), ood.once(score))
        return Value.ok(value, len(test) + len(ood), extra={"n_id": len(test), "n_ood": len(ood)})

    return compute


def _metrics_of(name: str, score: Score, needs: tuple[str, ...]) -> Iterator[Metric]:
    for base, direction, measure, reference in _MEASURES:
        compute = detection(measure, score)
        yield Metric(f"{base}[{name}]", 1, "fraction", direction, (0, 1), needs, reference=reference, compute=compute)


_MEASURES: tuple[tuple[str, Direction, Detection, str], ...] = (
    ("ood_auroc", "up", auroc, "Hendrycks and Gimpel 2017"),
    ("ood_fpr95", "down", fpr95, "Liang 2018"),
    ("ood_fpr95_id", "down", fpr95_id, "Liang 2018"),
)
METRICS = (
    *_metrics_of("msp", maximum_softmax, ("log_probs", "ood")),
    *_metrics_of("entropy", predictive_entropy, ("log_probs", "ood")),
    *_metrics_of("mi", mutual_informations, ("log_probs", "expected_entropy", "ood")),
)
