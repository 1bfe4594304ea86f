"""Detection of out-of-distribution inputs by an uncertainty score. OOD is the positive class, larger = more OOD.

The score is part of the metric's name: `ood_auroc[msp]`, `ood_fpr95[entropy]`, `ood_fpr95_id[mi]`, `ood_auroc[own]` for
the posterior's own. The area under the precision-recall curve is not reported: it depends on the ratio of OOD to ID
samples. Attacked test examples are sets like others; they are compared with the same examples before the attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmark.errors import PredictionError
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


def own_score(split: SplitPredictions) -> Floats:
    """(n,) what the posterior itself gave as its uncertainty, the score `own`; NaN where it gave no number.

    Raises:
        PredictionError: no score is stored.
    """
    if split.score is None:
        raise PredictionError(f"the predictions of '{split.name or 'this split'}' come without a score.")
    return split.score


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
    """The metric (ID predictions, OOD predictions) -> Value for one measure and one score; `n` counts both.

    A score that is NaN counts as the least suspicious value there is, on both sides: a detector that says nothing lets
    the input pass. `extra` then holds how many there were, `n_nan_id` and `n_nan_ood`.
    """

    def compute(test: SplitPredictions, ood: SplitPredictions) -> Value:
        id_scores, ood_scores = test.once(score), ood.once(score)
        extra = {"n_id": len(test), "n_ood": len(ood)}
        silent = {"n_nan_id": int(np.isnan(id_scores).sum()), "n_nan_ood": int(np.isnan(ood_scores).sum())}
        if any(silent.values()):
            id_scores, ood_scores = _least_where_nan(id_scores), _least_where_nan(ood_scores)
            extra |= silent
        return Value.ok(measure(id_scores, ood_scores), len(test) + len(ood), extra=extra)

    return compute


def _least_where_nan(scores: Floats) -> Floats:
    return np.where(np.isnan(scores), -np.inf, scores)


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
    *_metrics_of("own", own_score, ("score", "ood")),
)
