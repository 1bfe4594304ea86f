import itertools
import math

import numpy as np
import pytest
from metric_cases import f8, split

from benchmark.metrics import noise_floor
from benchmark.metrics.ece import calibration_error, ece15, ece15m, equal_mass_bins, equal_width_bins
from benchmark.metrics.noise_floor import (
    ece15_floor,
    ece15_floor95,
    ece15_p,
    ece15m_floor,
    ece15m_floor95,
    ece15m_p,
    resample,
)


def exact_floor(confidence, binning):
    """The expected calibration error of a calibrated predictor, by enumeration of all 2^n outcomes."""
    bins, total = binning(confidence), 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=len(confidence)):
        outcome = np.array(outcome)
        probability = np.where(outcome == 1, confidence, 1 - confidence).prod()
        total += probability * calibration_error(bins, confidence, outcome)
    return total


@pytest.mark.parametrize(
    ("binning", "floor", "expected"),
    [(equal_width_bins, ece15_floor, 0.287525), (equal_mass_bins, ece15m_floor, 0.339275)],
    ids=["equal width", "equal mass"],
)
def test_the_floor_of_f8_by_enumeration_and_by_bootstrap(binning, floor, expected):
    assert exact_floor(f8().confidence, binning) == pytest.approx(expected, abs=1e-9)
    assert floor(f8()).value == pytest.approx(expected, abs=0.012)


def test_the_p_value_of_f8():
    assert ece15_p(f8()).value == pytest.approx(0.363, abs=0.05)  # 3 Monte-Carlo errors of 1000 replicates
    observed = ece15(f8()).value
    (replicates,) = resample(f8().confidence, (equal_width_bins,), replicates=200_000)
    assert (replicates >= observed - 1e-12).mean() == pytest.approx(0.3627, abs=0.0035)


def test_the_floor_of_one_sample_is_2c_1_minus_c():
    confidence = np.array([0.8])
    assert exact_floor(confidence, equal_width_bins) == pytest.approx(0.32, abs=1e-12)
    assert ece15_floor(split([(0.8, 0.2)], [0])).value == pytest.approx(0.32, abs=0.025)


def test_the_floor_of_two_coin_flips_in_one_bin():
    confidence = np.array([0.5, 0.5])
    assert exact_floor(confidence, equal_width_bins) == pytest.approx(0.25, abs=1e-12)
    assert ece15_floor(split([(0.5, 0.5)] * 2, [0, 1])).value == pytest.approx(0.25, abs=0.025)


@pytest.mark.parametrize(("n", "floor", "mass"), [(200, 0.087, 0.091), (1000, 0.039, 0.040), (10_000, 0.0124, 0.0130)])
def test_the_floor_shrinks_with_n_as_planned(n, floor, mass):
    confidence = np.random.default_rng(7).uniform(0.1, 1, n)  # not PCG64(0): the stream of the replicates
    width, equal_mass = resample(confidence, (equal_width_bins, equal_mass_bins), replicates=400)
    assert width.mean() == pytest.approx(floor, rel=0.05)
    assert equal_mass.mean() == pytest.approx(mass, rel=0.05)
    variance = np.bincount(equal_width_bins(confidence), weights=confidence * (1 - confidence))
    planned = np.sqrt(2 / math.pi * variance).sum() / n
    # 2% of approximation and 3 Monte-Carlo errors of 400 replicates
    assert planned == pytest.approx(width.mean(), rel=0.02, abs=3 * width.std() / 20)


def test_replicates_do_not_depend_on_the_size_of_the_chunks(monkeypatch):
    confidence = np.random.default_rng(1).uniform(0.3, 1, 300)
    whole = resample(confidence, (equal_width_bins,))[0]
    monkeypatch.setattr(noise_floor, "_CHUNK_BYTES", 8 * 300 * 7)
    assert resample(confidence, (equal_width_bins,))[0].tolist() == pytest.approx(whole.tolist(), abs=1e-15)


def test_replicates_are_the_calibration_errors_of_the_pinned_generator():
    confidence = f8().confidence
    outcomes = np.random.Generator(np.random.PCG64(0)).random((1000, 8)) < confidence
    for binning, replicates in zip(
        (equal_width_bins, equal_mass_bins), resample(confidence, (equal_width_bins, equal_mass_bins)), strict=True
    ):
        bins = binning(confidence)
        slow = [calibration_error(bins, confidence, outcome.astype(float)) for outcome in outcomes]
        assert replicates.tolist() == pytest.approx(slow, abs=1e-12)


def test_quantile_and_p_value_follow_from_the_replicates():
    width, mass = resample(f8().confidence, (equal_width_bins, equal_mass_bins))
    assert ece15_floor95(f8()).value == np.quantile(width, 0.95)
    assert ece15m_floor95(f8()).value == np.quantile(mass, 0.95)
    assert ece15m_p(f8()).value == (1 + (mass >= ece15m(f8()).value - 1e-12).sum()) / 1001


def test_certain_and_right_cannot_be_told_from_calibrated():
    perfect = split(np.eye(2), [0, 1])
    assert (ece15_floor(perfect).value, ece15_floor95(perfect).value, ece15_p(perfect).value) == (0.0, 0.0, 1.0)


def test_gross_over_confidence_has_the_smallest_p_value():
    assert ece15_p(split([(0.99, 0.01)] * 50, [1] * 50)).value == 1 / 1001


def test_all_six_numbers_share_one_bootstrap(monkeypatch):
    calls = []

    def counted(confidence, binnings, replicates=1000):
        calls.append(len(binnings))
        return resample(confidence, binnings, replicates)

    monkeypatch.setattr(noise_floor, "resample", counted)
    test = f8()
    for metric in noise_floor.METRICS:
        metric.compute(test)
    assert calls == [2]
