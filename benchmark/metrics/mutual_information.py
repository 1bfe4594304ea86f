"""Epistemic uncertainty: mutual information between the prediction and the draw."""

from __future__ import annotations

from math import inf

import numpy as np

from benchmark.errors import PredictionError
from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.record import Floats, Metric, Value

_NOISE = -1e-4  # float32 rounding of both entropies stays well above it


def mutual_informations(split: SplitPredictions) -> Floats:
    """(n,) max(0, predictive entropy - expected entropy) in nats, clamped per sample.

    Raises:
        PredictionError: no expected entropy is stored, or a difference lies below -1e-4, which no rounding explains.
    """
    where = split.name or "this split"
    if split.expected_entropy is None:
        raise PredictionError(f"the predictions of '{where}' come without expected_entropy; S > 1 draws need it.")
    difference = split.entropies - split.expected_entropy
    if difference.min() < _NOISE:
        row = int((difference < _NOISE).argmax())
        raise PredictionError(
            f"row {row} of '{where}' has expected entropy {split.expected_entropy[row]:.6g}, above the entropy "
            f"{split.entropies[row]:.6g} of the mean prediction. Were both computed from the same draws?"
        )
    return np.maximum(difference, 0.0)


def mutual_information(test: SplitPredictions) -> Value:
    """mean_i max(0, H_i - E_i) in nats, in [0, min(ln K, ln S)] (Houlsby 2011; Depeweg 2018).

    Biased low for few draws and bounded by ln S: read it next to S. Errors as `mutual_informations`.
    """
    return Value.from_samples(test.once(mutual_informations))


METRIC = Metric(
    "mi",
    1,
    "nat",
    "none",
    (0, inf),
    ("log_probs", "expected_entropy"),
    reference="Houlsby 2011; Depeweg 2018",
    compute=mutual_information,
)
