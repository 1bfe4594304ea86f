"""Every metric of the suite, by name."""

from __future__ import annotations

from benchmark.metrics import (
    accuracy,
    agreement,
    aurc,
    brier,
    compression,
    cost,
    ece,
    encoding_loss,
    entropy,
    gap,
    known_law,
    mutual_information,
    nll,
    noise_floor,
    ood,
    shift,
    temperature,
)
from benchmark.metrics.record import Metric

PREDICTION_METRICS: tuple[Metric, ...] = (
    accuracy.METRIC,
    nll.METRIC,
    brier.METRIC,
    *ece.METRICS,
    gap.METRIC,
    *noise_floor.METRICS,
    *temperature.METRICS,
    *aurc.METRICS,
    entropy.METRIC,
    mutual_information.METRIC,
    *ood.METRICS,
    accuracy.ATTACKED,
    *shift.METRICS,
    *known_law.METRICS,
)
"""Functions of one posterior's stored predictions, in the order of reports."""

COMPARISON_METRICS: tuple[Metric, ...] = agreement.METRICS
"""Functions of two predictions of one split."""

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (*PREDICTION_METRICS, *COMPARISON_METRICS, *compression.METRICS, encoding_loss.METRIC, *cost.METRICS)
}


PER_SET = ("ood", "attacked", "shifted")
"""Needs of metrics that have one result per set, named with the set as suffix: `ood_auroc[msp].svhn`, `shift_nll.3`."""


def metric_of(result_name: str) -> Metric:
    """The metric behind a result's name, which may carry a suffix: `ood_auroc[msp].svhn` -> `ood_auroc[msp]`.

    Raises:
        KeyError: no such metric.
    """
    return METRICS[result_name] if result_name in METRICS else METRICS[result_name.partition(".")[0]]
