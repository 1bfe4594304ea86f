import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import random_probs, split, splits

from benchmark.metrics.catalogue import METRICS, PREDICTION_METRICS
from benchmark.metrics.predictions import SplitPredictions
from benchmark.metrics.temperature import fit_scale, scaled_confidence, scaled_label_log_prob

# Not the noise floor: its replicates give each sample its own random numbers.
POINT = [m for m in PREDICTION_METRICS if set(m.needs) <= {"log_probs", "labels"} and "_" not in m.name]
PROPERTIES = settings(max_examples=200, deadline=None, derandomize=True)


def value(name, test):
    """The number of a metric, infinity included."""
    result = METRICS[name].compute(test)
    return math.inf if result.state == "inf" else result.value


@given(splits())
@PROPERTIES
def test_values_lie_in_the_range_of_their_metric(test):
    for metric in POINT:
        low, high = metric.range
        assert low - 1e-12 <= value(metric.name, test) <= high + 1e-12, metric.name
    assert value("entropy", test) <= math.log(test.n_classes) + 1e-12


@given(splits())
@PROPERTIES
def test_the_gap_is_a_lower_bound_of_both_calibration_errors(test):
    gap = abs(value("gap", test))
    assert gap <= value("ece15", test) + 1e-12
    assert gap <= value("ece15m", test) + 1e-12


@given(splits())
@PROPERTIES
def test_the_best_order_is_the_best(test):
    excess, area = value("eaurc", test), value("aurc", test)
    assert 0 <= excess <= area + 1e-12
    if test.correct.all():
        assert (excess, area) == (0, 0)


@given(splits(), st.integers(0, 2**32))
@PROPERTIES
def test_the_order_of_samples_changes_nothing(test, seed):
    order = np.random.default_rng(seed).permutation(len(test))
    shuffled = SplitPredictions(test.log_probs[order], test.labels[order])
    for metric in POINT:
        assert value(metric.name, shuffled) == pytest.approx(value(metric.name, test), abs=1e-12)


@given(splits(), st.integers(0, 2**32))
@PROPERTIES
def test_the_names_of_classes_change_nothing_unless_the_arg_max_ties(test, seed):
    order = np.random.default_rng(seed).permutation(test.n_classes)
    renamed = SplitPredictions(test.log_probs[:, order], np.argsort(order)[test.labels])
    ties = (test.log_probs == test.top_log_prob[:, None]).sum(axis=1).max() > 1
    for name in ["nll", "brier", "entropy"] if ties else [m.name for m in POINT]:
        assert value(name, renamed) == pytest.approx(value(name, test), abs=1e-12)


@given(splits(max_n=100))
@PROPERTIES
def test_temperature_scaling_never_raises_the_validation_nll_and_keeps_the_arg_max(val):
    if math.isinf(value("nll", val)):
        return
    scale = fit_scale(val)
    scaled = -scaled_label_log_prob(val, scale.beta).mean()
    assert scaled <= value("nll", val) + 1e-9
    top = scaled_confidence(val, scale.beta)
    assert (top >= 1 / val.n_classes - 1e-12).all()
    assert 0.05 - 1e-12 <= scale.beta <= 20 + 1e-12


@given(st.integers(0, 2**32), st.integers(2, 20), st.integers(2, 20), st.integers(1, 200))
@PROPERTIES
def test_mutual_information_is_bounded_by_classes_and_draws(seed, classes, draws, n):
    rng = np.random.default_rng(seed)
    members = np.stack([random_probs(rng, n, classes, 0.1) for _ in range(draws)])
    entropies = -(members * np.log(members)).sum(axis=2).mean(axis=0).astype(np.float32)
    mixture = SplitPredictions(np.log(members.mean(axis=0)).astype(np.float32), None, entropies)
    mi = value("mi", mixture)
    assert 0 <= mi <= min(math.log(classes), math.log(draws)) + 1e-6


@given(splits(max_n=60), splits(max_n=60))
@PROPERTIES
def test_detection_of_swapped_roles_is_the_complement(inside, outside):
    forth = METRICS["ood_auroc[msp]"].compute(inside, outside).value
    back = METRICS["ood_auroc[msp]"].compute(outside, inside).value
    assert forth + back == pytest.approx(1, abs=1e-12)
    for name in ("ood_fpr95[msp]", "ood_fpr95_id[msp]"):
        assert 0 <= METRICS[name].compute(inside, outside).value <= 1


@given(st.integers(0, 2**32), st.integers(2, 10), st.integers(1, 100))
@PROPERTIES
def test_the_excess_over_the_true_law_is_never_negative(seed, classes, n):
    rng = np.random.default_rng(seed)
    true, probs = random_probs(rng, n, classes, 0.3), random_probs(rng, n, classes, 0.3)
    test = split(probs, rng.integers(0, classes, n))
    assert METRICS["excess_nll"].compute(test, np.log(true)).value >= -1e-12
    error = METRICS["true_ece15"].compute(test, np.log(true))
    assert error.value <= error.extra["mean_abs_error"] + 1e-12
