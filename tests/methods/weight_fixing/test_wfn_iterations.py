"""One iteration of clustering: picks in order, members, quotas, and weights that are fixed already."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import wfn_brute_force as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from wfn_cases import oracle

from methods.fixed_weights.fixing import Fixing
from methods.weight_fixing.candidates import grid_bits
from methods.weight_fixing.free import SortedWeights
from methods.weight_fixing.iterations import fix_iteration, fixed_quota

CASES = oracle("wfn_round")


def weights_of(w: np.ndarray, distance: float, fixed: np.ndarray | None = None) -> Fixing:
    weights = Fixing.of(torch.from_numpy(w.copy()), None, grid_bits(distance), torch.int32)
    if fixed is not None:
        weights.fixed = torch.from_numpy(fixed.copy())
    return weights


def picks_of(record) -> list[tuple[float, int, int, float]]:
    """(value, count, order, reach), values of codes on a grid of 2^-15 steps at most."""
    return [(pick.code, pick.count, pick.omega - 1, pick.delta) for pick in record.picks]


def drawn(seed: int, n: int, kind: str) -> np.ndarray:
    """float32 weights: Gaussian with ties and zeros, of many magnitudes, or the scales of norms."""
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 0.1, n)
    if kind == "ties":
        w = (w * 256).round() / 256 * rng.choice([1.0, 1.1], n)
        w[rng.random(n) < 0.1] = 0.0
    elif kind == "magnitudes":
        w *= np.exp2(rng.integers(-12, 5, n))
    elif kind == "norms":
        w[: n // 2] = 1.0
        w[0] = -0.0
    return w.astype(np.float32)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_an_iteration_is_that_of_the_oracle(case):
    inputs, expected = case["inputs"], case["expected"]
    w = np.array(inputs["w"], dtype=np.float32)
    weights = weights_of(w, inputs["d"])
    record = fix_iteration(weights, fixed_quota(inputs["p"], len(w)), inputs["d"])
    found = [[pick.code / 2**weights.b, pick.count, pick.omega - 1] for pick in record.picks]
    assert found == expected["picks"]
    assert weights.fixed.nonzero().squeeze(1).tolist() == expected["fixed_index"]
    assert weights.mu[weights.fixed].tolist() == expected["value"]
    assert torch.equal(weights.code[weights.fixed] * 2.0**-weights.b, weights.mu[weights.fixed])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 300),
    kind=st.sampled_from(["gaussian", "ties", "magnitudes", "norms"]),
    distance=st.sampled_from([0.005, 0.01, 0.05, 0.1, 0.3, 1.5]),
    fraction=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    before=st.sampled_from([0.0, 0.3]),
)
def test_an_iteration_is_that_of_the_definition(seed, n, kind, distance, fraction, before):
    w = drawn(seed, n, kind)
    fixed = np.random.default_rng(seed).random(n) < before
    target = fixed_quota(fraction, n)
    picks, values, after = slow.iteration(w, fixed, target, distance)
    weights = weights_of(w, min(distance, 0.5), fixed)
    pick_of = torch.empty(n, dtype=torch.int32)
    record = fix_iteration(weights, target, distance, pick_of=pick_of)
    step = 2.0**-weights.b
    assert [(code * step, *others) for code, *others in picks_of(record)] == picks
    assert np.array_equal(weights.mu.numpy(), values)
    assert np.array_equal(weights.fixed.numpy(), after)
    assert (pick_of >= 0).tolist() == (after & ~fixed).tolist()
    assert torch.equal(weights.code[pick_of >= 0] * step, weights.mu[pick_of >= 0])
    assert torch.bincount(pick_of[pick_of >= 0], minlength=len(picks)).tolist() == [count for _, count, *_ in picks]


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200), order=st.integers(0, 5))
def test_votes_are_those_of_the_nearest_values_and_ties_go_to_the_smaller(seed, n, order):
    values = np.array(slow.candidates(0.1, order, 0.5))
    middles = (values[:-1] + values[1:]) / 2
    w = np.concatenate([drawn(seed, n, "magnitudes"), middles]).astype(np.float32)
    nearest = np.abs(w[:, None].astype(np.float64) - values).argmin(1)
    votes = SortedWeights(w, np.arange(len(w))).votes(values)
    assert votes.tolist() == np.bincount(nearest, minlength=len(values)).tolist()


def test_members_beyond_their_own_size_are_found_where_many_are_close():
    w = np.concatenate([np.full(1000, 0.2501), np.full(5, 0.09), np.full(3, -0.2)]).astype(np.float32)
    weights = weights_of(w, 0.02)
    record = fix_iteration(weights, len(w), 0.02)
    assert [(pick.code / 2**weights.b, pick.count) for pick in record.picks] == [(0.25, 1008)]


def test_small_weights_become_zero_the_smallest_first_where_there_is_no_room_for_all():
    w = np.array([0.004, -0.001, 0.003, -0.003, 0.003, 0.002], dtype=np.float32)
    weights = weights_of(w, 0.01)
    fix_iteration(weights, 4, 0.01)
    assert weights.fixed.tolist() == [False, True, True, True, False, True]
    assert weights.mu[weights.fixed].tolist() == [0.0] * 4


def test_a_quota_that_is_met_already_changes_nothing():
    w = drawn(0, 20, "gaussian")
    weights = weights_of(w, 0.01, np.arange(20) < 12)
    record = fix_iteration(weights, 12, 0.01)
    assert record.picks == ()
    assert np.array_equal(weights.mu.numpy(), w)


def test_codes_of_large_weights_are_exact():
    weights = weights_of(np.array([300.0, -5.0, 0.5, 0.001], dtype=np.float32), 0.003)
    assert weights.b == 15
    fix_iteration(weights, 4, 0.003)
    assert torch.equal(weights.code * 2.0**-15, weights.mu)
    assert torch.allclose(weights.mu, torch.tensor([300.0, -5.0, 0.5, 0.0]), rtol=0.01)


@pytest.mark.parametrize(("fraction", "n", "expected"), [(0.3, 10, 3), (0.29, 100, 29), (0.999, 1500, 1498)])
def test_the_quota_is_rounded_down_and_by_nothing_else(fraction, n, expected):
    assert fixed_quota(fraction, n) == expected
