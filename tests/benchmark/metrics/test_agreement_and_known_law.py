import math

import numpy as np
import pytest
from metric_cases import log, random_probs, sample_labels, split

from benchmark.errors import PredictionError
from benchmark.metrics.agreement import agreement, total_variation
from benchmark.metrics.entropy import entropy
from benchmark.metrics.known_law import excess_nll, true_ece15
from benchmark.metrics.nll import nll

P, Q = [(0.7, 0.3), (0.2, 0.8), (0.5, 0.5)], [(0.6, 0.4), (0.6, 0.4), (0.5, 0.5)]


def test_agreement_and_total_variation_by_hand():
    assert agreement(split(P), split(Q)).value == pytest.approx(2 / 3, abs=1e-12)
    assert total_variation(split(P), split(Q)).value == pytest.approx(1 / 6, abs=1e-12)


def test_a_prediction_agrees_with_itself_and_opposites_do_not():
    assert (agreement(split(P), split(P)).value, total_variation(split(P), split(P)).value) == (1.0, 0.0)
    left, right = split([(1, 0)]), split([(0, 1)])
    assert (agreement(left, right).value, total_variation(left, right).value) == (0.0, 1.0)


@pytest.mark.parametrize("metric", [agreement, total_variation])
def test_different_inputs_cannot_be_compared(metric):
    with pytest.raises(PredictionError, match=r"\(3, 2\) and reference \(2, 2\)"):
        metric(split(P), split(Q[:2]))


def test_excess_nll_by_hand():
    true, test = log([(0.5, 0.5), (0.8, 0.2)]), split([(0.25, 0.75), (0.8, 0.2)], [0, 1])
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    value = excess_nll(test, true)
    assert value.value == pytest.approx(first / 2, abs=1e-12)
    bayes = (math.log(2) - 0.8 * math.log(0.8) - 0.2 * math.log(0.2)) / 2
    assert value.extra["bayes_nll"] == pytest.approx(bayes, abs=1e-12)
    assert value.extra["label_sampled"] == pytest.approx(math.log(2) / 2, abs=1e-12)


def test_the_true_law_has_no_excess_and_the_nll_of_its_entropy():
    rng = np.random.default_rng(5)
    probs = random_probs(rng, 5000, 4)
    test = split(probs, sample_labels(rng, probs))
    assert excess_nll(test, log(probs)).value == pytest.approx(0, abs=1e-12)
    assert excess_nll(test, log(probs)).extra["bayes_nll"] == pytest.approx(entropy(test).value, abs=1e-12)
    assert abs(nll(test).value - entropy(test).value) < 4 * nll(test).se


def test_the_label_sampled_excess_estimates_the_excess():
    rng = np.random.default_rng(6)
    true, probs = random_probs(rng, 20_000, 3), random_probs(rng, 20_000, 3)
    labels = sample_labels(rng, true)
    test = split(probs, labels)
    value = excess_nll(test, log(true))
    terms = log(true)[np.arange(20_000), labels] - test.label_log_prob
    assert abs(value.extra["label_sampled"] - value.value) < 4 * terms.std() / math.sqrt(20_000)
    assert value.value > 0


def test_excluding_what_can_happen_costs_infinitely_much_and_what_cannot_is_free():
    certain = split([(1, 0), (0.5, 0.5)], [0, 0])
    value = excess_nll(certain, log([(0.5, 0.5), (0.5, 0.5)]))
    assert (value.state, value.extra["n_inf"]) == ("inf", 1)
    assert excess_nll(certain, log([(1, 0), (0.5, 0.5)])).value == 0.0


def test_a_label_of_probability_zero_leaves_out_the_label_sampled_excess():
    value = excess_nll(split([(0.5, 0.5)], [1]), log([(1, 0)]))
    assert value.value == pytest.approx(math.log(2), abs=1e-12)
    assert "label_sampled" not in value.extra


def test_true_ece_by_hand():
    test = split([(0.9, 0.1), (0.91, 0.09), (0.6, 0.4)], [0, 0, 1])
    value = true_ece15(test, log([(0.7, 0.3), (0.99, 0.01), (0.5, 0.5)]))
    # .9 and .91 share a bin: |-.2 + .08| + |-.1|; per sample: .2 + .08 + .1
    assert value.value == pytest.approx(0.22 / 3, abs=1e-12)
    assert value.extra["mean_abs_error"] == pytest.approx(0.38 / 3, abs=1e-12)
    assert value.extra["true_probability"][13] == pytest.approx(0.845, abs=1e-12)


def test_the_true_law_is_calibrated_without_noise():
    probs = random_probs(np.random.default_rng(8), 300, 5)
    value = true_ece15(split(probs, np.zeros(300, dtype=int)), log(probs))
    assert value.value == pytest.approx(0, abs=1e-12)
    assert value.extra["mean_abs_error"] == pytest.approx(0, abs=1e-12)
