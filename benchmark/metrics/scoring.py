"""All metrics of stored predictions at once: what a run's `result.json` holds and `rescore` computes again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.metrics.catalogue import COMPARISON_METRICS, METRICS, PREDICTION_METRICS
from benchmark.metrics.predictions import Predictions, SplitPredictions
from benchmark.metrics.record import Metric, Value
from benchmark.metrics.shift import groups

__all__ = ["METRICS", "Predictions", "SplitPredictions", "compare", "score"]

Results = dict[str, dict[str, Any]]


def score(predictions: Predictions) -> Results:
    """Every metric that depends on predictions alone: name -> JSON of its `Value`, in the catalogue's order.

    A metric of OOD detection has one entry per OOD or attacked set, `ood_auroc[msp].svhn`, one of attacked examples one
    per attack, one of corrupted examples one per severity and one for their mean; without any set there is one entry
    `ood_auroc[msp]` in state `na`. What has no meaning (no validation split, one draw, unknown law) is `na` by rule,
    before anything is computed. A metric that raises becomes `failed` with its reason; the others are not affected.

    >>> import numpy as np
    >>> rows, labels = np.log([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0])
    >>> score(Predictions(SplitPredictions(rows, labels)))["accuracy"]["value"]
    0.5
    """
    results: Results = {}
    for metric in PREDICTION_METRICS:
        reason = not_applicable(metric, predictions)
        if reason is not None:
            names = [f"{metric.name}.{name}" for name in predictions.ood] if "ood" in metric.needs else []
            results.update({name: Value.na(reason).to_json(metric) for name in names or [metric.name]})
        elif "ood" in metric.needs:
            for name, ood in predictions.ood.items():
                results[f"{metric.name}.{name}"] = _run(metric, predictions.inliers(name), ood)
        elif "attacked" in metric.needs:
            for name, attacked in predictions.attacked.items():
                results[f"{metric.name}.{name}"] = _run(metric, attacked)
        elif "shifted" in metric.needs:
            for name, sets in groups(predictions.shifted).items():
                results[f"{metric.name}.{name}"] = _run(metric, sets)
        else:
            second = {"val": predictions.val, "true_log_probs": predictions.true_log_probs}
            inputs = [second[need] for need in metric.needs if need in second]
            results[metric.name] = _run(metric, predictions.test, *inputs)
    return results


def compare(test: SplitPredictions, reference: SplitPredictions) -> Results:
    """The metrics of two predictions of one split, `agreement` and `tv`: name -> JSON of its `Value`."""
    return {metric.name: _run(metric, test, reference) for metric in COMPARISON_METRICS}


def not_applicable(metric: Metric, predictions: Predictions) -> str | None:
    """Why `metric` has no meaning for these predictions, or None when it has. Reads no array."""
    rules: Mapping[str, tuple[bool, str]] = {
        "ood": (not predictions.ood, "the task has no OOD set, and the protocol no attack"),
        "attacked": (not predictions.attacked, "the protocol has no attack"),
        "shifted": (not predictions.shifted, "the protocol has no shift"),
        "score": (predictions.test.score is None, "the posterior has no score of its own"),
        "val": (predictions.val is None, "the task has no validation split"),
        "true_log_probs": (predictions.true_log_probs is None, "the law of the task is not known"),
        "expected_entropy": (
            predictions.draws == 1,
            "the posterior is deterministic" if predictions.deterministic else "one draw (S = 1)",
        ),
    }
    return next((rules[need][1] for need in rules if need in metric.needs and rules[need][0]), None)


def _run(metric: Metric, *inputs: Any) -> dict[str, Any]:
    try:
        value = metric.compute(*inputs)
    except Exception as error:  # whatever went wrong is in the result; one bad metric never loses the others
        value = Value.failed(str(error) or type(error).__name__)
    return value.to_json(metric)
