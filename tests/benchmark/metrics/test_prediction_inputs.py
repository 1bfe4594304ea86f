import math

import numpy as np
import pytest
from metric_cases import log

from benchmark.errors import Diverged, PredictionError
from benchmark.metrics.inputs import NotANumber, check_expected_entropy, check_log_probs, check_predictions
from benchmark.metrics.predictions import Predictions, SplitPredictions

GOOD = log([(0.7, 0.3), (1, 0), (0.5, 0.5)])


def test_good_predictions_come_back_in_double_precision():
    log_probs, labels = check_predictions(GOOD.astype(np.float32), np.array([0, 1, 1], dtype=np.uint8))
    assert (log_probs.dtype, labels.dtype) == (np.float64, np.int64)
    assert labels.tolist() == [0, 1, 1]
    assert np.isneginf(log_probs[1, 1])


def test_logits_are_refused_with_the_row():
    with pytest.raises(PredictionError, match=r"row 0 of 'log_probs' sums to 2\.4, .*\n.*logits"):
        check_predictions(np.log([[1.2, 1.2]]), np.array([0]))


def test_the_first_bad_row_is_named_with_the_array_of_the_file():
    bad = GOOD.copy()
    bad[1:] += math.log(1.084)
    with pytest.raises(
        PredictionError, match=r"row 1 of 'ood\.svhn\.log_probs' sums to 1\.084, expected 1 within 0\.0001"
    ):
        check_log_probs(bad, "ood.svhn.log_probs")


def test_the_tolerance_is_one_in_ten_thousand():
    assert check_log_probs(GOOD + 0.99e-4).shape == (3, 2)
    for shift in (1.01e-4, -1.01e-4):
        with pytest.raises(PredictionError, match="row 0"):
            check_log_probs(GOOD + shift)


@pytest.mark.parametrize("row", [(1000.0, 2000.0), (math.inf, 0.0), (-math.inf, -math.inf)])
def test_no_logits_overflow_into_a_pass(row):
    with pytest.raises(PredictionError, match="row 2 of 'log_probs' sums to"):
        check_log_probs(np.vstack([GOOD[:2], [row]]))


def test_nan_is_a_divergence_and_a_prediction_error():
    bad = GOOD.copy()
    bad[2, 0] = math.nan
    with pytest.raises(NotANumber, match="row 2 of 'log_probs' holds NaN") as caught:
        check_log_probs(bad)
    assert isinstance(caught.value, Diverged)
    assert isinstance(caught.value, PredictionError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        (np.zeros((2, 1)), r"shape \(2, 1\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((2, 2), dtype=int), "dtype int64"),
        ([["a", "b"]], "dtype <U1"),
    ],
)
def test_shapes_and_types_are_checked(log_probs, message):
    with pytest.raises(PredictionError, match=message):
        check_log_probs(log_probs)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2, 5], r"row 1 of 'val\.labels' is 2, expected a class in 0\.\.1"),
        ([0, 1, -1], "row 2 .* is -1"),
        ([0, 1], r"shape \(2,\), expected \(3,\)"),
        ([0.0, 1.0, 1.0], "dtype float64, expected integers"),
        ([True, False, True], "dtype bool"),
    ],
)
def test_labels_are_checked(labels, message):
    with pytest.raises(PredictionError, match=message):
        check_predictions(GOOD, np.array(labels), "val")


def test_expected_entropies_are_checked():
    assert check_expected_entropy(np.array([0.1, 0.2], dtype=np.float32), 2).dtype == np.float64
    with pytest.raises(NotANumber, match=r"row 1"):
        check_expected_entropy(np.array([0.1, math.nan]), 2)
    with pytest.raises(PredictionError, match=r"row 0 .* is inf"):
        check_expected_entropy(np.array([math.inf, 0.1]), 2)
    with pytest.raises(PredictionError, match=r"shape \(2,\), expected floating point of shape \(3,\)"):
        SplitPredictions(GOOD, expected_entropy=np.array([0.1, 0.2]), name="test")


def test_predictions_must_fit_together():
    test = SplitPredictions(GOOD, np.array([0, 0, 1]))
    with pytest.raises(PredictionError, match=r"'test\.labels' is missing"):
        Predictions(SplitPredictions(GOOD))
    with pytest.raises(PredictionError, match=r"'val\.labels' is missing"):
        Predictions(test, val=SplitPredictions(GOOD))
    with pytest.raises(PredictionError, match=r"'ood\.noise\.log_probs' has 3 classes"):
        Predictions(test, ood={"noise": SplitPredictions(log([(0.2, 0.3, 0.5)]))})
    with pytest.raises(PredictionError, match=r"'ood\.pgd\.labels' are not those of the first 2 test examples"):
        Predictions(test, ood={"pgd": SplitPredictions(GOOD[:2], np.array([0, 1]))})
    with pytest.raises(PredictionError, match=r"'ood\.pgd\.labels' are not those of the first 4 test examples"):
        Predictions(test, ood={"pgd": SplitPredictions(np.vstack([GOOD, GOOD[:1]]), np.array([0, 0, 1, 0]))})
    with pytest.raises(PredictionError, match=r"'ood\.far\.score' is float64 of shape \(2,\), expected .* \(3,\)"):
        SplitPredictions(GOOD, score=np.zeros(2), name="ood.far")
    with pytest.raises(PredictionError, match="draws is 0"):
        Predictions(test, draws=0)
    with pytest.raises(PredictionError, match=r"draws is 30, .*deterministic is True"):
        Predictions(test, draws=30, deterministic=True)
    with pytest.raises(PredictionError, match=r"'test\.true_log_probs' is \(2, 2\)"):
        Predictions(test, true_log_probs=GOOD[:2])
