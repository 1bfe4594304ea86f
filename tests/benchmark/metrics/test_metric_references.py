"""The metrics against obvious double loops and against other libraries, where the definitions coincide."""

import math

import numpy as np
import pytest
import torch
from metric_cases import f8, random_probs, split
from scipy.special import logsumexp
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score, roc_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from benchmark.metrics.aurc import aurc, eaurc
from benchmark.metrics.brier import brier
from benchmark.metrics.ece import ece15, ece15m
from benchmark.metrics.nll import nll
from benchmark.metrics.ood import auroc, fpr95
from benchmark.metrics.temperature import fit_scale, nll_ts

SEEDS = range(10)


def case(seed, voted=False):
    rng = np.random.default_rng(seed)
    n, classes = int(rng.integers(2, 120)), int(rng.integers(2, 8))
    if voted:
        probs = rng.multinomial(6, np.full(classes, 1 / classes), size=n) / 6
    else:
        probs = random_probs(rng, n, classes)
    return split(probs, rng.integers(0, classes, n))


@pytest.mark.parametrize("voted", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_equal_width_error_is_that_of_an_obvious_loop(seed, voted):
    test, total = case(seed, voted), 0.0
    for b in range(15):
        inside = [i for i in range(len(test)) if min(int(15 * test.confidence[i] + 1e-5), 14) == b]
        if inside:
            accuracy = sum(test.correct[i] for i in inside) / len(inside)
            confidence = sum(test.confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(test) * abs(accuracy - confidence)
    assert ece15(test).value == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("voted", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_equal_mass_error_is_that_of_an_obvious_loop(seed, voted):
    test = case(seed, voted)
    n, sums = len(test), [0.0] * 15
    for i in range(n):
        start = sum(c < test.confidence[i] for c in test.confidence)
        end = sum(c <= test.confidence[i] for c in test.confidence)
        sums[15 * (start + end) // (2 * n)] += float(test.correct[i]) - test.confidence[i]
    assert ece15m(test).value == pytest.approx(sum(map(abs, sums)) / n, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_aurc_without_ties_is_the_mean_of_the_risks(seed):
    test = case(seed)
    order, errors, risks = np.argsort(-test.top_log_prob), 0, []
    for k, i in enumerate(order, start=1):
        errors += not test.correct[i]
        risks.append(errors / k)
    assert aurc(test).value == pytest.approx(sum(risks) / len(test), abs=1e-12)
    best = [max(0, k - (len(test) - errors)) / k for k in range(1, len(test) + 1)]
    assert eaurc(test).value == pytest.approx((sum(risks) - sum(best)) / len(test), abs=1e-12)


def test_aurc_with_ties_is_the_expectation_over_random_tie_breaks():
    test, rng = case(3, voted=True), np.random.default_rng(0)
    curves = []
    for _ in range(3000):
        order = np.lexsort((rng.random(len(test)), -test.top_log_prob))
        curves.append((np.cumsum(~test.correct[order]) / np.arange(1, len(test) + 1)).mean())
    error = np.std(curves, ddof=1) / math.sqrt(3000)
    assert abs(aurc(test).value - np.mean(curves)) < 4 * error


def test_aurc_of_f8_from_its_risks():
    risks = [0, 0.5 / 2, 1 / 3, 2 / 4, 2 / 5, 2 / 6, 2 / 7, 3 / 8]  # the tie at .9 shares one error
    assert aurc(f8()).value == pytest.approx(sum(risks) / 8, abs=1e-12)
    assert eaurc(f8()).value == pytest.approx((sum(risks) - (1 / 6 + 2 / 7 + 3 / 8)) / 8, abs=1e-12)


def test_all_tied_has_the_area_of_the_error_rate():
    assert aurc(split([(0.6, 0.4)] * 5, [0, 1, 0, 1, 1])).value == pytest.approx(0.6, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_ece_agrees_with_torchmetrics(seed):
    test = case(seed)
    theirs = multiclass_calibration_error(
        torch.tensor(test.probs, dtype=torch.float32), torch.tensor(test.labels), test.n_classes, n_bins=15, norm="l1"
    )
    assert ece15(test).value == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_nll_and_brier_agree_with_scikit_learn(seed):
    test = case(seed)
    assert nll(test).value == pytest.approx(log_loss(test.labels, test.probs, labels=range(test.n_classes)), abs=1e-12)
    if test.n_classes == 2:
        assert brier(test).value == pytest.approx(2 * brier_score_loss(test.labels, test.probs[:, 1]), abs=1e-12)
    one_hot = np.eye(test.n_classes)[test.labels]
    assert brier(test).value == pytest.approx(((test.probs - one_hot) ** 2).sum(axis=1).mean(), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_detection_agrees_with_scikit_learn(seed, ties):
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(0, 1, 70), rng.normal(1, 1, 40)
    if ties:
        inside, outside = inside.round(1), outside.round(1)
    truth, scores = np.repeat([0, 1], [70, 40]), np.concatenate([inside, outside])
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert fpr95(inside, outside) == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_temperature_scaling_agrees_with_a_general_optimiser(seed):
    from scipy.optimize import minimize_scalar

    test = case(seed)

    def loss(log_beta):
        scaled = math.exp(log_beta) * test.log_probs
        return -(scaled[np.arange(len(test)), test.labels] - logsumexp(scaled, axis=1)).mean()

    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-10})
    assert nll_ts(test, test).value == pytest.approx(best.fun, abs=1e-9)
    scale = fit_scale(test)
    if not scale.at_bound:
        assert math.log(scale.beta) == pytest.approx(best.x, abs=1e-5)  # the loss is flat to rounding around it
