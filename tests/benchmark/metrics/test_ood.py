import numpy as np
import pytest
from metric_cases import split

from benchmark.errors import PredictionError
from benchmark.metrics.ood import METRICS, auroc, fpr95, fpr95_id
from benchmark.metrics.predictions import SplitPredictions

ID = np.array([0.1, 0.2, 0.3, 0.3, 0.4, 0.5, 0.5, 0.6, 0.7, 0.9])
OOD = np.array([0.3, 0.5, 0.6, 0.8, 0.9, 0.9, 1, 1])


def test_the_pinned_case():
    assert auroc(ID, OOD) == pytest.approx(0.80625, abs=1e-12)
    assert fpr95(ID, OOD) == pytest.approx(0.8, abs=1e-12)
    assert fpr95_id(ID, OOD) == pytest.approx(0.75, abs=1e-12)


def test_auroc_of_swapped_roles_is_the_complement_and_fpr95_is_not():
    assert auroc(OOD, ID) == pytest.approx(1 - 0.80625, abs=1e-12)
    assert fpr95_id(ID, OOD) != fpr95(ID, OOD)
    assert fpr95_id(ID, OOD) == fpr95(-OOD, -ID)


@pytest.mark.parametrize("seed", range(20))
def test_against_double_loops_with_ties(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 60, 2)
    inside, outside = rng.integers(0, 8, n) / 8, rng.integers(2, 10, m) / 8
    pairs = [(u > v) + 0.5 * (u == v) for u in outside for v in inside]
    assert auroc(inside, outside) == pytest.approx(np.mean(pairs), abs=1e-12)
    for t in sorted({*inside, *outside}, reverse=True):
        if 100 * sum(u >= t for u in outside) >= 95 * m:
            assert fpr95(inside, outside) == sum(v >= t for v in inside) / n
            break
    for t in sorted({*inside, *outside}):
        if 100 * sum(v <= t for v in inside) >= 95 * n:
            assert fpr95_id(inside, outside) == sum(u <= t for u in outside) / m
            break


def test_all_thresholds_count_even_collinear_ones():
    blocks = np.repeat(np.arange(25), 4).astype(float)
    assert fpr95(blocks, blocks) == pytest.approx(0.96, abs=1e-12)


def test_no_difference_and_perfect_separation():
    assert (auroc(np.ones(5), np.ones(3)), fpr95(np.ones(5), np.ones(3))) == (0.5, 1.0)
    assert (auroc(np.zeros(5), np.ones(3)), fpr95(np.zeros(5), np.ones(3)), fpr95_id(np.zeros(5), np.ones(3))) == (
        1,
        0,
        0,
    )


def test_each_score_reads_its_own_uncertainty():
    # On three classes the most confident sample need not have the lowest entropy.
    test = split([(0.6, 0.4, 0.0)], [0], np.array([0.6]), [7.0])
    ood = split([(0.62, 0.19, 0.19)], expected_entropy=np.array([0.9]), score=[9.0])
    values = {metric.name: metric.compute(test, ood).value for metric in METRICS}
    assert values["ood_auroc[msp]"] == 0.0
    assert values["ood_auroc[entropy]"] == 1.0
    assert values["ood_auroc[mi]"] == 0.0
    assert values["ood_auroc[own]"] == 1.0
    assert METRICS[0].compute(test, ood).extra == {"n_id": 1, "n_ood": 1}


def test_msp_keeps_apart_what_the_probability_merges():
    # 1 - 1e-17 and 1 - 1e-18 are both 1.0 in float64, their logs differ.
    rows = np.log1p(-np.array([1e-17, 1e-18]))
    logs = np.stack([rows, np.log([1e-17, 1e-18])], axis=1)
    test, ood = SplitPredictions(logs[1:]), SplitPredictions(logs[:1])
    assert test.confidence == ood.confidence
    assert METRICS[0].compute(test, ood).value == 1.0


def own(name, id_scores, ood_scores):
    """The metric `name[own]` of two sets of scores."""
    metric = next(metric for metric in METRICS if metric.name == f"{name}[own]")
    sets = (split([(0.5, 0.5)] * len(scores), score=scores) for scores in (id_scores, ood_scores))
    return metric.compute(*sets)


def test_a_score_that_is_nan_is_the_least_suspicious_and_is_counted():
    nan = float("nan")
    found = own("ood_auroc", [0.2, 0.4, nan], [0.3, nan, 0.5])
    # the pairs (ood, id) by hand: .3 beats .2 and nan; nan ties with nan; .5 beats all
    assert found.value == pytest.approx((2 + 0.5 + 3) / 9, abs=1e-12)
    assert found.extra == {"n_id": 3, "n_ood": 3, "n_nan_id": 1, "n_nan_ood": 1}
    assert own("ood_fpr95", [0.2, 0.4, 0.6], [nan, 0.9]).value == 1.0  # to flag it, everything is to be flagged
    assert own("ood_fpr95_id", [0.2, 0.4], [nan, nan, nan, 0.9]).value == 0.75
    assert own("ood_auroc", [nan], [nan]).value == 0.5


def test_infinite_scores_are_ordered_and_nothing_is_counted_without_nan():
    found = own("ood_auroc", [-np.inf, 0.0], [np.inf, 1.0])
    assert (found.value, found.extra) == (1.0, {"n_id": 2, "n_ood": 2})


def test_without_a_stored_score_the_set_is_named():
    metric = next(metric for metric in METRICS if metric.name == "ood_auroc[own]")
    with pytest.raises(PredictionError, match=r"predictions of 'ood\.far' come without a score"):
        metric.compute(split([(0.5, 0.5)], score=[1]), SplitPredictions(np.log([[0.5, 0.5]]), name="ood.far"))
