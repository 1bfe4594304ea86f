"""Synthetic predictors that are calibrated by construction: labels drawn from their own probabilities."""

import numpy as np
import pytest
from metric_cases import random_probs, sample_labels, split
from scipy.stats import kstest

from benchmark.metrics.ece import ece15, ece15m
from benchmark.metrics.entropy import entropy
from benchmark.metrics.nll import nll
from benchmark.metrics.noise_floor import ece15_floor, ece15_p, ece15m_floor, ece15m_p


def calibrated(rng, n):
    probs = random_probs(rng, n, 4)
    return split(probs, sample_labels(rng, probs))


@pytest.mark.parametrize("p_value", [ece15_p, ece15m_p])
def test_the_p_value_of_calibrated_predictors_is_uniform(p_value):
    rng = np.random.default_rng(11)
    values = [p_value(calibrated(rng, 300)).value for _ in range(200)]
    assert kstest(values, "uniform").pvalue > 0.001


def test_the_mean_error_of_calibrated_predictors_is_the_floor():
    rng = np.random.default_rng(12)
    tests = [calibrated(rng, 1000) for _ in range(1000)]
    # Floors of different sets differ by a few per cent, so that 50 of them are enough for their mean.
    for error, floor in ((ece15, ece15_floor), (ece15m, ece15m_floor)):
        observed = np.mean([error(test).value for test in tests])
        assert observed == pytest.approx(np.mean([floor(test).value for test in tests[:50]]), rel=0.03)


def test_a_sharpened_predictor_is_found_out():
    rng = np.random.default_rng(13)
    probs = random_probs(rng, 1000, 4)
    sharp = probs**2 / (probs**2).sum(axis=1, keepdims=True)
    assert ece15_p(split(sharp, sample_labels(rng, probs))).value == 1 / 1001


def test_the_nll_of_a_calibrated_predictor_is_its_entropy():
    test = calibrated(np.random.default_rng(14), 20_000)
    differences = -test.label_log_prob - test.entropies
    error = differences.std(ddof=1) / np.sqrt(len(test))
    assert abs(nll(test).value - entropy(test).value) < 4 * error
