import math

import numpy as np
import pytest
from metric_cases import F8_LABELS, F8_PROBS, f8, log, split

from benchmark.errors import PredictionError
from benchmark.metrics.accuracy import accuracy
from benchmark.metrics.aurc import aurc, eaurc
from benchmark.metrics.brier import brier
from benchmark.metrics.ece import ece15, ece15m, equal_mass_bins, equal_width_bins
from benchmark.metrics.entropy import entropy
from benchmark.metrics.gap import gap
from benchmark.metrics.mutual_information import mutual_information, mutual_informations
from benchmark.metrics.nll import nll
from benchmark.metrics.predictions import SplitPredictions

F8_VALUES = [
    (accuracy, 0.625),
    (nll, 0.8551055717124387),
    (brier, 0.544475),
    (ece15, 0.31625),
    (ece15m, 0.41625),
    (gap, 0.05375),
    (entropy, 0.704832879),
    (aurc, 0.309672619),
    (eaurc, 0.206250000),
]


@pytest.mark.parametrize(("metric", "expected"), F8_VALUES, ids=lambda item: getattr(item, "__name__", ""))
def test_f8_by_hand(metric, expected):
    value = metric(f8())
    assert value.value == pytest.approx(expected, abs=1e-9)
    assert value.n == 8


@pytest.mark.parametrize(("metric", "expected"), F8_VALUES, ids=lambda item: getattr(item, "__name__", ""))
def test_f8_stored_as_float32_shows_the_same_digits(metric, expected):
    # float32 logs carry a relative error of 6e-8; tables print at most five digits.
    assert metric(f8(np.float32)).value == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_f8_falls_into_the_same_bins_in_both_precisions(dtype):
    confidence = f8(dtype).confidence
    assert equal_width_bins(confidence).tolist() == [14, 13, 13, 9, 10, 6, 7, 6]
    assert equal_mass_bins(confidence).tolist() == [14, 11, 11, 6, 8, 0, 4, 2]


def test_per_sample_terms_of_f8():
    terms = [0, 0.105361, 2.302585, 0.510826, 1.514128, 0.916291, 0.693147, 0.798508]
    assert (-f8().label_log_prob).tolist() == pytest.approx(terms, abs=5e-7)
    entropies = [0, 0.394398, 0.325083, 0.950271, 0.825617, 1.054920, 1.039721, 1.048654]
    assert f8().entropies.tolist() == pytest.approx(entropies, abs=5e-7)
    assert f8().correct.tolist() == [True, True, False, True, False, False, True, True]


def test_the_standard_error_is_that_of_the_per_sample_terms():
    terms = np.array([0, 0.015, 1.62, 0.24, 1.0808, 0.56, 0.375, 0.465])
    assert brier(f8()).se == pytest.approx(terms.std(ddof=1) / math.sqrt(8), abs=1e-12)
    assert accuracy(split([(0.7, 0.3)], [0])).se is None


def test_the_reliability_diagram_of_f8():
    extra = ece15(f8()).extra
    assert extra["counts"] == [0, 0, 0, 0, 0, 0, 2, 1, 0, 1, 1, 0, 0, 2, 1]
    assert extra["confidence"][6] == pytest.approx(0.425)
    assert extra["accuracy"][13] == 0.5
    assert extra["accuracy"][0] is None


def test_a_zero_at_the_label_makes_the_nll_infinite_and_nothing_else():
    labels = F8_LABELS.copy()
    labels[0] = 2
    value = nll(split(F8_PROBS, labels))
    assert (value.state, value.value, value.extra["n_inf"]) == ("inf", None, 1)
    assert value.extra["nll_finite"] == pytest.approx(0.977263511, abs=1e-9)
    assert brier(split(F8_PROBS, labels)).value == pytest.approx(0.794475, abs=1e-12)


def test_an_infinite_nll_without_a_finite_term_has_no_finite_part():
    assert nll(split([(1, 0)], [1])).extra == {"n_inf": 1}


def test_one_hot_and_right_is_free_of_error():
    perfect = split(np.eye(3), [0, 1, 2])
    assert [m(perfect).value for m in (nll, brier, ece15, ece15m, gap, entropy, aurc, eaurc)] == [0.0] * 8
    assert accuracy(perfect).value == 1.0


def test_confidence_one_shares_the_last_bin():
    value = ece15(split([(0.95, 0.05), (1.0, 0.0)], [0, 1]))
    assert value.value == pytest.approx(0.475, abs=1e-12)
    assert value.extra["counts"][14] == 2


def test_ece_of_one_sample():
    one = split([(0.8, 0.2)], [0])
    assert ece15(one).value == pytest.approx(0.2, abs=1e-12)
    assert ece15m(one).value == pytest.approx(0.2, abs=1e-12)


@pytest.mark.parametrize("metric", [ece15, ece15m])
def test_constant_confidence_equal_to_the_accuracy_has_no_calibration_error(metric):
    assert metric(split([(0.75, 0.25)] * 4, [0, 0, 0, 1])).value == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("bins", range(16))
def test_multiples_of_a_fifteenth_stay_in_their_bin_through_float32_logs(bins):
    confidence = np.exp(np.log(np.array([max(bins, 1e-30) / 15])).astype(np.float32).astype(np.float64))
    assert equal_width_bins(confidence).tolist() == [min(bins, 14)]


def test_the_brier_score_of_two_classes_is_twice_the_one_column_score():
    probs, labels = np.array([(0.7, 0.3), (0.2, 0.8), (0.55, 0.45)]), np.array([0, 0, 1])
    one_column = ((probs[:, 1] - labels) ** 2).mean()
    assert brier(split(probs, labels)).value == pytest.approx(2 * one_column, abs=1e-12)


def test_the_nll_is_that_of_the_mean_probability_not_of_draws_or_logits():
    draws = np.array([[(0.8, 0.2), (0.5, 0.5)], [(0.4, 0.6), (0.5, 0.5)]])  # (S, n, K)
    labels = [0, 1]
    assert nll(split(draws.mean(axis=0), labels)).value == pytest.approx(0.601986, abs=5e-7)
    of_draws = np.mean([nll(split(draw, labels)).value for draw in draws])
    assert of_draws == pytest.approx(0.631432, abs=5e-7)
    logits = np.log(draws).mean(axis=0)
    of_logits = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert nll(split(of_logits, labels)).value == pytest.approx(0.585427, abs=5e-7)


def test_mutual_information_by_hand():
    draws = np.array([[(0.8, 0.2), (0.5, 0.5), (1, 0)], [(0.4, 0.6), (0.5, 0.5), (0, 1)]])
    expected = -np.where(draws > 0, draws * log(np.where(draws > 0, draws, 1)), 0).sum(axis=2).mean(axis=0)
    test = split(draws.mean(axis=0), expected_entropy=expected)
    assert expected.tolist() == pytest.approx([0.586707, 0.693147, 0], abs=5e-7)
    assert test.entropies.tolist() == pytest.approx([0.673012, 0.693147, 0.693147], abs=5e-7)
    assert mutual_informations(test).tolist() == pytest.approx([0.086305, 0, 0.693147], abs=5e-7)
    assert mutual_information(test).value == pytest.approx(0.259817, abs=5e-7)


def test_mutual_information_is_clamped_per_sample_and_no_further_than_rounding():
    rows = [(0.5, 0.5), (0.5, 0.5)]
    noisy = split(rows, expected_entropy=np.array([math.log(2) + 5e-5, math.log(2) - 0.1]))
    assert mutual_information(noisy).value == pytest.approx(0.05, abs=1e-12)
    wrong = split(rows, expected_entropy=np.array([0.1, math.log(2) + 2e-4]))
    with pytest.raises(PredictionError, match=r"row 1 .* expected entropy 0\.693347"):
        mutual_information(wrong)


def test_metrics_of_labels_refuse_predictions_without_labels():
    with pytest.raises(PredictionError, match=r"'ood\.noise' come without labels"):
        accuracy(SplitPredictions(log([(0.5, 0.5)]), name="ood.noise"))
    with pytest.raises(PredictionError, match="without expected_entropy"):
        mutual_information(split([(0.5, 0.5)]))
