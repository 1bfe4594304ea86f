"""What encoding cost in likelihood."""

import numpy as np
import pytest

from benchmark.metrics.encoding_loss import delta_nll_decode
from benchmark.metrics.predictions import Predictions, SplitPredictions


def _predictions(first: float) -> Predictions:
    rows = np.log([[first, 1 - first], [0.25, 0.75]])
    return Predictions(SplitPredictions(rows, np.array([0, 1])))


def test_a_lossless_posterior_loses_exactly_nothing() -> None:
    assert delta_nll_decode(_predictions(0.5), None).value == 0.0


def test_the_loss_is_the_difference_of_the_two_likelihoods() -> None:
    loss = delta_nll_decode(_predictions(0.5), _predictions(0.8)).value
    assert loss == pytest.approx((np.log(0.8) - np.log(0.5)) / 2, abs=1e-12)


def test_encoding_that_helps_has_a_negative_loss() -> None:
    value = delta_nll_decode(_predictions(0.8), _predictions(0.5)).value
    assert value is not None
    assert value < 0


def test_an_infinite_likelihood_has_no_difference() -> None:
    with np.errstate(divide="ignore"):
        rows = np.log([[0.0, 1.0], [0.25, 0.75]])
    infinite = Predictions(SplitPredictions(rows, np.array([0, 1])))
    assert delta_nll_decode(infinite, _predictions(0.5)).state == "failed"
