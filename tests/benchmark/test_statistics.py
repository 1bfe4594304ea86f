import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmark.statistics import (
    bootstrap_interval,
    friedman,
    geometric_mean,
    holm,
    interval,
    mark_best,
    nemenyi,
    paired,
    rank,
)

A, B = {0: 0.92, 1: 0.95, 2: 0.93}, {0: 0.90, 1: 0.94, 2: 0.90}
TASKS = {
    "t1": {"a": 0.50, "b": 0.45, "c": 0.60},
    "t2": {"a": 0.80, "b": 0.80, "c": 0.90},
    "t3": {"a": 1.2, "b": 1.0, "c": 1.1},
    "t4": {"a": 0.30, "b": 0.25, "c": 0.35},
    "t5": {"a": 0.70, "b": 0.66, "c": 0.90},
}


def test_one_seed_is_a_value_and_two_are_a_range():
    one, two = interval([0.9]), interval([0.9, 0.7])
    assert (one.kind, one.mean, one.low, one.high, one.half_width) == ("value", 0.9, None, None, None)
    assert (two.kind, two.mean, two.low, two.high, two.half_width) == ("range", 0.8, 0.7, 0.9, None)


def test_three_seeds_have_a_t_interval():
    three = interval([0.91, 0.93, 0.92])
    assert (three.kind, three.n) == ("t", 3)
    assert three.mean == pytest.approx(0.92, abs=1e-12)
    assert three.half_width == pytest.approx(0.0248, abs=5e-5)
    assert three.low == pytest.approx(0.92 - three.half_width, abs=1e-12)


@pytest.mark.parametrize(("n", "t"), [(3, 4.3027), (4, 3.1824), (5, 2.7764), (10, 2.2622)])
def test_the_quantiles_of_t(n, t):
    values = np.random.default_rng(n).normal(size=n)
    assert interval(values).half_width / (values.std(ddof=1) / math.sqrt(n)) == pytest.approx(t, abs=5e-5)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [1.0, 2.0, math.inf]])
def test_what_is_not_a_number_has_no_interval(values):
    with pytest.raises(ValueError, match="finite"):
        interval(values)


def test_the_pinned_pair():
    test = paired(A, B)
    assert (test.seeds, test.n) == ((0, 1, 2), 3)
    assert test.difference == pytest.approx(0.02, abs=1e-12)
    assert (test.low, test.high) == (pytest.approx(-0.0048, abs=5e-5), pytest.approx(0.0448, abs=5e-5))
    assert test.t == pytest.approx(3.4641, abs=5e-5)
    assert test.p == pytest.approx(0.0742, abs=5e-5)
    unpaired = stats.ttest_ind(list(A.values()), list(B.values()))
    assert unpaired.pvalue == pytest.approx(0.279, abs=5e-4)  # what pairing gains


def test_only_common_seeds_are_compared_in_any_order():
    more = {7: 0.1, **dict(reversed(B.items())), 9: 0.2}
    assert paired(A, more) == paired(A, B)
    assert paired(A, {5: 0.1}) == paired({}, {})
    two = paired(A, {0: 0.9, 1: 0.9})
    assert (two.n, two.low, two.t, two.p) == (2, None, None, None)
    assert two.difference == pytest.approx(0.035, abs=1e-12)


def test_equal_differences_need_no_spread():
    same = paired(A, dict(A))
    assert (same.difference, same.low, same.high, same.t, same.p) == (0.0, 0.0, 0.0, 0.0, 1.0)
    shifted = paired({seed: value + 0.1 for seed, value in A.items()}, A)
    assert (shifted.t, shifted.p) == (math.inf, 0.0)
    assert shifted.low == shifted.high == pytest.approx(0.1, abs=1e-12)
    rounded = paired({seed: value * (1 + 1e-16) for seed, value in A.items()}, A)
    assert rounded.p == 1.0


@pytest.mark.parametrize("seed", range(10))
def test_the_paired_test_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, int(rng.integers(3, 12))))
    theirs = stats.ttest_rel(a, b)
    ours = paired(dict(enumerate(a)), dict(enumerate(b)))
    assert (ours.t, ours.p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    bounds = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high) == (pytest.approx(bounds.low), pytest.approx(bounds.high))


@pytest.mark.parametrize(
    ("given_", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.02, 0.02, 0.9, 0.013], [0.06, 0.06, 0.9, 0.052]),
        ([], []),
        ([0.4, 0.6], [0.8, 0.8]),
        ([0.9, 0.8], [1, 1]),
    ],
)
def test_holm_by_hand(given_, adjusted):
    assert holm(given_) == pytest.approx(adjusted, abs=1e-12)


def test_holm_refuses_what_is_no_p_value():
    for bad in (1.1, -0.1, math.nan):
        with pytest.raises(ValueError, match="p-values"):
            holm([0.5, bad])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None, derandomize=True)
def test_holm_is_ordered_like_its_input_and_between_p_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, len(p_values) * p) or q == pytest.approx(p)
    by_p = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert by_p == sorted(by_p)


def test_marks_go_to_the_best_to_what_cannot_be_told_from_it_and_to_the_second():
    def seeds(*values):
        return dict(enumerate(values))

    column = {
        "far": seeds(0.5, 0.51, 0.52),
        "near": seeds(0.9, 0.92, 0.905),
        "best": seeds(0.91, 0.91, 0.92),
        "clear": seeds(0.9, 0.9, 0.91),
    }
    assert mark_best(column, "up") == {"far": set(), "near": {"best", "second"}, "best": {"best"}, "clear": set()}
    assert mark_best(column, "down")["far"] == {"best"}
    assert mark_best(column, "down")["clear"] == {"second"}
    assert mark_best({}, "up") == {}


def test_there_is_no_bold_below_three_common_seeds():
    assert mark_best({"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0, 1: 4.0}}, "up") == {"a": set(), "b": {"second"}}
    other_seeds = {"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {7: 1.0, 8: 2.0, 9: 2.9}}
    assert mark_best(other_seeds, "up") == {"a": {"best"}, "b": {"second"}}


def test_the_pinned_ranks_and_their_critical_difference():
    ranking = rank(TASKS, "down")
    assert ranking.mean_ranks == pytest.approx({"a": 2.1, "b": 1.1, "c": 2.8}, abs=1e-12)
    test = friedman(ranking.ranks)
    assert test.chi2 == pytest.approx(7.6842, abs=5e-5)
    assert test.f == pytest.approx(13.273, abs=5e-4)
    assert test.p == pytest.approx(0.00288, abs=5e-6)
    assert test.critical_difference == pytest.approx(1.4823, abs=5e-5)
    sums = 5 * np.array([2.1, 1.1, 2.8])
    assert 12 / (5 * 3 * 4) * (sums**2).sum() - 3 * 5 * 4 == pytest.approx(7.3, abs=1e-12)  # without the ties
    mean = ranking.mean_ranks
    differ = {(x, y) for x in mean for y in mean if mean[y] - mean[x] > test.critical_difference}
    assert differ == {("b", "c")}


def test_ranks_do_not_depend_on_the_order_of_rows():
    shuffled = {task: dict(reversed(row.items())) for task, row in reversed(TASKS.items())}
    assert rank(shuffled, "down").mean_ranks == rank(TASKS, "down").mean_ranks
    assert rank(shuffled, "down").tasks == ("t1", "t2", "t3", "t4", "t5")


def test_upward_is_the_mirror_image():
    up, down = rank(TASKS, "up").ranks, rank(TASKS, "down").ranks
    np.testing.assert_array_equal(up + down, np.full((5, 3), 4.0))


def test_an_incomplete_method_is_unranked_and_leaves_the_others_alone():
    with_hole = {task: {**row, "d": 0.0} for task, row in TASKS.items()}
    del with_hole["t3"]["d"]
    ranking = rank(with_hole, "down")
    assert ranking.mean_ranks == rank(TASKS, "down").mean_ranks
    assert ranking.unranked == {"d": 4}
    nothing = rank({"t1": {"a": 1.0}, "t2": {"b": 1.0}}, "down")
    assert (nothing.mean_ranks, nothing.unranked) == ({}, {"a": 1, "b": 1})
    assert rank({}, "down").mean_ranks == {}


@pytest.mark.parametrize("direction", ["up", "down"])
def test_infinity_ranks_last(direction):
    row = {"a": math.inf, "b": 1.0, "c": 1.0, "d": math.inf}
    assert rank({"t": row}, direction).mean_ranks == {"a": 3.5, "b": 1.5, "c": 1.5, "d": 3.5}
    with pytest.raises(ValueError, match="NaN"):
        rank({"t": {"a": math.nan, "b": 1.0}}, direction)


@pytest.mark.parametrize("seed", range(10))
def test_the_statistic_agrees_with_scipy_with_ties(seed):
    table = np.random.default_rng(seed).integers(0, 6, (8, 4)).astype(float)
    ours = friedman(rank({f"t{i}": dict(zip("abcd", row, strict=True)) for i, row in enumerate(table)}, "down").ranks)
    assert ours.chi2 == pytest.approx(stats.friedmanchisquare(*table.T).statistic, abs=1e-9)
    assert ours.p == pytest.approx(stats.f.sf(ours.f, 3, 21), abs=1e-12)
    assert (ours.critical_difference is None) == (ours.p >= 0.05)


def test_one_order_on_every_task_is_infinitely_clear():
    test = friedman(np.array([[1.0, 2.0, 3.0]] * 6))
    assert (test.chi2, test.f, test.p) == (pytest.approx(12), math.inf, 0.0)
    assert test.critical_difference == pytest.approx(nemenyi(6, 3))


def test_nothing_but_ties_and_too_few_tasks_have_no_critical_difference():
    assert friedman(np.full((5, 3), 2.0)).p == 1.0
    assert friedman(np.array([[1.0, 2.0, 3.0]] * 4)).critical_difference is None
    with pytest.raises(ValueError, match="1 tasks and 3 methods"):
        friedman(np.array([[1.0, 2.0, 3.0]]))


def test_the_studentised_range_of_2_to_10_methods():
    expected = [1.960, 2.344, 2.569, 2.728, 2.850, 2.948, 3.031, 3.102, 3.164]
    quantiles = [nemenyi(1, k) / math.sqrt(k * (k + 1) / 6) for k in range(2, 11)]
    assert quantiles == pytest.approx(expected, abs=6e-4)


def test_the_bootstrap_is_seeded_and_close_to_the_normal_interval():
    data = np.random.default_rng(5).normal(size=400)
    low, high = bootstrap_interval(lambda index: data[index].mean(), len(data))
    assert bootstrap_interval(lambda index: data[index].mean(), len(data)) == (low, high)
    assert bootstrap_interval(lambda index: data[index].mean(), len(data), seed=1) != (low, high)
    error = data.std(ddof=1) / 20
    # the 2.5% quantile of 1000 replicates has a Monte-Carlo error of about .085 standard errors
    assert (low, high) == (
        pytest.approx(data.mean() - 1.96 * error, abs=0.3 * error),
        pytest.approx(data.mean() + 1.96 * error, abs=0.3 * error),
    )


def test_the_bootstrap_resamples_whole_samples():
    seen = []
    bootstrap_interval(lambda index: seen.append(index) or 0.0, 7, replicates=50)
    assert len(seen) == 50
    assert {len(index) for index in seen} == {7}
    assert set(np.concatenate(seen).tolist()) == set(range(7))


def test_ratios_average_geometrically():
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4, abs=1e-12)
    with pytest.raises(ValueError, match="positive"):
        geometric_mean([2.0, 0.0])
