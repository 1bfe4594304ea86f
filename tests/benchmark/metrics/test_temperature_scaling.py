import numpy as np
import pytest
from metric_cases import random_probs, sample_labels, split

from benchmark.errors import PredictionError
from benchmark.metrics import temperature as module
from benchmark.metrics.ece import ece15
from benchmark.metrics.nll import nll
from benchmark.metrics.temperature import ece15_ts, fit_scale, nll_ts, temperature

FOUR = [(0.9, 0.1)] * 4
FIVE = [(0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.3, 0.3, 0.4), (0.05, 0.05, 0.9), (0.6, 0.3, 0.1)]


def test_four_rows_need_exactly_temperature_two():
    val = split(FOUR, [0, 0, 0, 1])
    assert temperature(val, val).value == pytest.approx(2, abs=1e-12)
    assert nll(val).value == pytest.approx(0.654667, abs=5e-7)
    assert nll_ts(val, val).value == pytest.approx(0.562335, abs=5e-7)
    assert nll_ts(val, val).extra == {}


def test_the_temperature_comes_from_validation_and_is_applied_to_test():
    val, test = split(FOUR, [0, 0, 0, 1]), split(FOUR, [0, 0, 1, 1])
    assert nll(test).value == pytest.approx(1.203973, abs=5e-7)
    assert nll_ts(test, val).value == pytest.approx(0.836988, abs=5e-7)
    assert ece15_ts(test, val).value == pytest.approx(0.25, abs=1e-12)  # confidence .75, accuracy .5
    assert temperature(test, val).n == 4


@pytest.mark.parametrize(("labels", "expected"), [([0, 0, 0, 0], 0.05), ([1, 1, 1, 1], 20.0)])
def test_a_minimum_outside_the_range_returns_the_bound_and_says_so(labels, expected):
    val = split(FOUR, labels)
    for metric in (temperature, nll_ts, ece15_ts):
        assert metric(val, val).extra == {"at_bound": True}
    assert temperature(val, val).value == pytest.approx(expected, abs=1e-15)


def test_five_rows_of_three_classes():
    val = split(FIVE, [0, 1, 0, 2, 1])
    assert temperature(val, val).value == pytest.approx(0.696472, abs=5e-7)
    assert nll(val).value == pytest.approx(0.618625, abs=5e-7)
    assert nll_ts(val, val).value == pytest.approx(0.590324, abs=5e-7)


def test_a_zero_at_a_validation_label_fails():
    val, test = split([(1, 0), (0.5, 0.5)], [1, 0]), split(FOUR, [0, 0, 0, 1])
    for metric in (temperature, nll_ts, ece15_ts):
        with pytest.raises(PredictionError, match=r"^zero probability at a validation label$"):
            metric(test, val)


def test_a_zero_at_a_test_label_is_infinite():
    val, test = split(FOUR, [0, 0, 0, 1]), split([(1, 0), (0.9, 0.1)], [1, 0])
    value = nll_ts(test, val)
    assert (value.state, value.extra["n_inf"]) == ("inf", 1)
    assert value.extra["nll_finite"] == pytest.approx(-np.log(0.75), abs=1e-12)
    assert ece15_ts(test, val).state == "ok"


def test_zeros_away_from_the_label_do_not_disturb_the_fit():
    padded = split([(p, q, 0) for p, q in FOUR], [0, 0, 0, 1])
    assert temperature(padded, padded).value == pytest.approx(2, abs=1e-12)


def test_uniform_rows_are_at_the_bound_of_no_consequence():
    val = split([(0.5, 0.5)] * 3, [0, 1, 0])
    assert temperature(val, val).extra == {"at_bound": True}
    assert nll_ts(val, val).value == pytest.approx(np.log(2), abs=1e-12)


def test_the_known_scale_of_sharpened_logits_is_found():
    rng = np.random.default_rng(3)
    probs = random_probs(rng, 40_000, 5)
    labels = sample_labels(rng, probs)
    sharp = probs**2 / (probs**2).sum(axis=1, keepdims=True)
    val = split(sharp, labels)
    assert temperature(val, val).value == pytest.approx(2, rel=0.03)  # 4 standard errors at n = 40 000
    assert ece15_ts(val, val).value < 0.2 * ece15(val).value


def test_the_fit_is_the_minimum_on_a_fine_grid():
    rng = np.random.default_rng(4)
    probs = random_probs(rng, 200, 6)
    val = split(probs, rng.integers(0, 6, 200))
    best = nll_ts(val, val).value
    for beta in np.exp(np.linspace(np.log(0.05), np.log(20), 400)):
        scaled = probs**beta / (probs**beta).sum(axis=1, keepdims=True)
        assert nll(split(scaled, val.labels)).value >= best - 1e-12


def test_the_three_numbers_share_one_fit(monkeypatch):
    calls = []

    def counted(val):
        calls.append(len(val))
        return fit_scale(val)

    monkeypatch.setattr(module, "fit_scale", counted)
    val = split(FIVE, [0, 1, 0, 2, 1])
    for metric in module.METRICS:
        metric.compute(val, val)
    assert calls == [5]
