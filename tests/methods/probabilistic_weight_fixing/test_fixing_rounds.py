"""Clustering rounds: oracle cases, a slow reference, and what must hold of every round."""

from __future__ import annotations

import copy
import math
import tracemalloc

import numpy as np
import pytest
import torch
from fixing_brute_force import BruteForce
from fixing_oracles import (
    codes_of,
    oracle,
    picks_of,
    settings_of_case,
    sigma_of_fixed,
    weights_of_case,
    with_gaps,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_timing import threads
from torch import Tensor

from benchmark import ConfigError, Diverged
from methods.fixed_weights.codebook import value_counts
from methods.fixed_weights.fixing import Fixing
from methods.fixed_weights.picks import RoundRecord
from methods.probabilistic_weight_fixing import free, histogram, rounds
from methods.probabilistic_weight_fixing.candidates import candidate_codes
from methods.probabilistic_weight_fixing.free import Free
from methods.probabilistic_weight_fixing.pool import pool_sigma
from methods.probabilistic_weight_fixing.rounds import fix_round, fixed_target, schedule
from methods.probabilistic_weight_fixing.settings import FixingSettings
from methods.probabilistic_weight_fixing.sigma import initial_sigma
from methods.probabilistic_weight_fixing.turns import within_mean

DEFAULTS = FixingSettings()


def random_weights(n: int, seed: int, *, b: int = 7, spread: float = 0.0, scale: float = 0.1) -> Fixing:
    """Gaussian means; initial sigma times exp(spread x normal)."""
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(n, generator=generator) * scale
    factor = torch.exp(spread * torch.randn(n, generator=generator))
    return Fixing.of(mu, initial_sigma(mu, DEFAULTS) * factor, b)


def assert_sigma(found: Tensor, expected: Tensor, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("case", oracle("round") + oracle("round_variant"), ids=lambda case: case["id"])
def test_a_round_equals_the_oracle(case):
    weights, expected = weights_of_case(case), case["expected"]
    target = fixed_target(case["inputs"]["p"], len(weights))
    record = fix_round(weights, target, case["inputs"]["delta"], settings_of_case(case))
    assert picks_of(record) == expected["picks"]
    assert codes_of(weights) == expected["code"]
    assert record.count == expected["n_fixed"]
    assert_sigma(sigma_of_fixed(weights), with_gaps(expected["sigma_of_fixed"]))


def test_a_pick_beyond_the_quota_keeps_the_nearest_as_in_the_oracle():
    (case,) = oracle("round_truncation")
    weights, expected = weights_of_case(case), case["expected"]
    record = fix_round(weights, fixed_target(case["inputs"]["p"], len(weights)), 1.0, DEFAULTS)
    assert picks_of(record) == expected["picks"]
    assert weights.fixed.nonzero().squeeze(1).tolist() == expected["fixed_index"]
    assert_sigma(weights.sigma[weights.fixed], torch.full((6,), expected["sigma_of_fixed"]))


def test_small_weights_go_to_zero_and_not_to_the_middle_candidate_left():
    (case,) = oracle("zero_index")
    weights, expected = weights_of_case(case), case["expected"]
    before = weights.mu.clone()
    record = fix_round(weights, fixed_target(case["inputs"]["p"], len(weights)), 1.0, DEFAULTS)
    assert picks_of(record) == expected["picks"]
    assert codes_of(weights) == expected["code"]
    assert int((before * weights.mu < 0).sum()) == expected["n_sign_changes"]


def test_rounds_with_a_permanent_mask_equal_the_oracle():
    (case,) = oracle("chain_permanent")
    weights, inputs = weights_of_case(case), case["inputs"]
    for p, add, expected in zip(inputs["p"], inputs["add"], case["expected"]["rounds"], strict=True):
        if add is not None:
            weights.mu += torch.tensor(add)
        record = fix_round(weights, fixed_target(p, len(weights)), inputs["delta"], settings_of_case(case))
        assert picks_of(record) == expected["picks"]
        assert codes_of(weights) == expected["code"]
    assert_sigma(weights.sigma, torch.tensor(expected["sigma"]), rtol=2e-5)
    pool_sigma(weights)
    codes, counts = value_counts(weights)
    assert codes.tolist() == case["expected"]["pooled_value_code"]
    assert counts.tolist() == case["expected"]["pooled_count"]
    for code, pooled in zip(codes, case["expected"]["pooled_sigma"], strict=True):
        own = weights.sigma[weights.code == code]
        assert_sigma(own, torch.full_like(own, pooled), rtol=2e-5)


def test_rounds_that_cluster_all_anew_equal_the_oracle():
    (case,) = oracle("chain_recluster")
    weights, inputs, expected = weights_of_case(case), case["inputs"], case["expected"]
    for p in inputs["p"]:
        weights.fixed.zero_()
        fix_round(weights, fixed_target(p, len(weights)), inputs["delta"], settings_of_case(case))
    assert weights.fixed.nonzero().squeeze(1).tolist() == expected["fixed_after_round2"]
    assert torch.equal(weights.mu[weights.fixed], torch.tensor(expected["mu_after_round2"])[weights.fixed])
    assert_sigma(weights.sigma, torch.tensor(expected["sigma_after_round2"]))


def assert_equals_brute_force(weights: Fixing, chosen: FixingSettings, seed: int) -> None:
    """Three rounds with the permanent mask; free weights move in between."""
    generator = torch.Generator().manual_seed(seed)
    slow = BruteForce(weights, chosen)
    for p in (0.3, 0.8, 1.0):
        step = 0.003 * torch.randn(len(weights), generator=generator) * ~weights.fixed
        weights.mu += step
        slow.mu += step.numpy()
        target = fixed_target(p, len(weights))
        record = fix_round(weights, target, 1.0, chosen)
        assert picks_of(record) == [list(pick) for pick in slow.fix_round(target, 1.0)]
        assert np.array_equal(weights.code.numpy(), slow.code)
        assert np.array_equal(weights.mu.numpy(), slow.mu)
        assert_sigma(weights.sigma, torch.from_numpy(slow.sigma), rtol=2e-5)


@pytest.mark.parametrize("group", range(10))
def test_the_histogram_finds_what_all_distances_to_all_candidates_find(group: int):
    """Seven chains of three rounds each, one of them of 4000 weights: 210 rounds in all."""
    for seed in range(7 * group, 7 * group + 7):
        generator = np.random.default_rng(seed)
        n = int(generator.choice([50, 200, 500] if seed % 7 else [4000]))
        chosen = FixingSettings(
            b=int(generator.integers(3, 9)),
            zero_fix=bool(seed % 2),
            omega_max=int(generator.integers(1, 5)),
            inc=float(generator.choice([1.5, 2.0, 4.0])),
            sigma_join=generator.choice(["std_mu", "keep", "div10", "div2"]),
        )
        assert_equals_brute_force(random_weights(n, seed, b=chosen.b, spread=1.0), chosen, seed)


@pytest.mark.parametrize("membership", ["max", "mean"])
@pytest.mark.parametrize("count", ["coverage", "nearest"])
@pytest.mark.parametrize("zero_fix", [True, False], ids=["zero_fix", "no_zero_fix"])
def test_variants_find_what_all_distances_to_all_candidates_find(zero_fix: bool, count: str, membership: str):
    chosen = FixingSettings.model_validate({"count": count, "membership": membership, "zero_fix": zero_fix, "b": 6})
    for seed in range(4):
        assert_equals_brute_force(random_weights(150, seed, b=6, spread=0.5), chosen, seed)


def test_a_fine_grid_whose_kinds_are_numbered_as_they_occur_finds_the_same():
    chosen = FixingSettings(b=15, omega_max=4)
    weights = random_weights(100, 0, b=15, spread=1.0)
    weights.mu[0], weights.code = 1.9, weights.code.int()
    assert 2 * (len(candidate_codes(4, 1.9, 15)) + 1) ** 2 > histogram.MOST_DENSE
    assert_equals_brute_force(weights, chosen, 0)


@pytest.mark.parametrize("most", [0, 1 << 24], ids=["as_they_occur", "dense"])
def test_both_ways_of_numbering_kinds_fix_alike(most: int, monkeypatch: pytest.MonkeyPatch):
    expected = rounds_of(random_weights(5000, 3, spread=1.0))
    monkeypatch.setattr(histogram, "MOST_DENSE", most)
    found = rounds_of(random_weights(5000, 3, spread=1.0))
    assert_same(found, expected)


@pytest.mark.parametrize("omega_max", [4, 16])
@pytest.mark.parametrize("zero_fix", [True, False], ids=["zero_fix", "no_zero_fix"])
def test_candidates_looked_up_one_by_one_fix_as_all_of_them_do(zero_fix: bool, omega_max: int, monkeypatch):
    chosen = FixingSettings(b=10, omega_max=omega_max, zero_fix=zero_fix)
    for seed in range(6):
        expected = rounds_of(random_weights(300, seed, b=10, spread=2.0), chosen)
        with monkeypatch.context() as patch:
            patch.setattr(rounds, "SMALL_TABLE", 0)
            patch.setattr(histogram, "SMALL_TABLE", 0)
            patch.setattr(rounds, "candidate_bound", lambda *given: 1 << 40)
            assert_same(rounds_of(random_weights(300, seed, b=10, spread=2.0), chosen), expected)


def test_large_weights_on_a_fine_grid_take_no_table_over_its_codes():
    weights = random_weights(200, 0, b=15, spread=1.0, scale=100.0)
    tracemalloc.start()  # numpy's memory; a table over all codes has 134 MB and more
    fix_round(weights, 160, 1.0, FixingSettings(b=15, omega_max=16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25
    assert torch.equal(weights.mu[weights.fixed], weights.code[weights.fixed] * 2.0**-15)


def rounds_of(weights: Fixing, chosen: FixingSettings = DEFAULTS) -> tuple[Fixing, list[RoundRecord]]:
    """After three rounds without training."""
    return weights, [fix_round(weights, fixed_target(p, len(weights)), 1.0, chosen) for p in (0.2, 0.7, 1.0)]


def assert_same(found: tuple[Fixing, list[RoundRecord]], expected: tuple[Fixing, list[RoundRecord]]) -> None:
    assert [picks_of(record) for record in found[1]] == [picks_of(record) for record in expected[1]]
    assert torch.equal(found[0].code, expected[0].code)
    assert torch.equal(found[0].mu, expected[0].mu)
    assert_sigma(found[0].sigma, expected[0].sigma)


@pytest.mark.parametrize("size", [1 << 10, 7777, 1 << 20])
def test_the_block_size_changes_nothing(size: int, monkeypatch: pytest.MonkeyPatch):
    expected = rounds_of(random_weights(200_000, 0))
    monkeypatch.setattr(free, "BLOCK_CPU", size)
    assert_same(rounds_of(random_weights(200_000, 0)), expected)


def test_the_number_of_threads_changes_nothing():
    with threads(1):
        expected = rounds_of(random_weights(300_000, 1))
    with threads(3):
        assert_same(rounds_of(random_weights(300_000, 1)), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400), st.integers(0, 1000), st.sampled_from(["std_mu", "keep", "div10", "div2"]), st.booleans())
def test_what_is_fixed_is_on_the_grid_and_stays(n: int, seed: int, join: str, zero_fix: bool):
    chosen = FixingSettings.model_validate({"sigma_join": join, "zero_fix": zero_fix})
    weights = random_weights(n, seed, spread=0.7)
    for p in (0.2, 0.55, 0.9, 1.0):
        before = copy.deepcopy(weights)
        record = fix_round(weights, fixed_target(p, n), 1.0, chosen)
        old, fresh = before.fixed, weights.fixed & ~before.fixed
        assert int(weights.fixed.sum()) == math.ceil(round(p * n, 6))
        assert int(fresh.sum()) == record.count
        assert bool((weights.fixed >= old).all())
        assert torch.equal(weights.mu[weights.fixed], weights.code[weights.fixed] * 2.0**-7)
        for name in ("mu", "sigma", "code"):
            assert torch.equal(getattr(weights, name)[~fresh], getattr(before, name)[~fresh])


def test_every_member_was_within_reach_of_its_pick():
    weights = random_weights(3000, 5, spread=0.5)
    before = copy.deepcopy(weights)
    pick_of = torch.empty(len(weights), dtype=torch.int32)
    record = fix_round(weights, 2700, 1.0, DEFAULTS, pick_of=pick_of)
    assert torch.equal(pick_of >= 0, weights.fixed)
    picks = [record.picks[k] for k in pick_of[weights.fixed].tolist()]
    assert [pick.code for pick in picks] == weights.code[weights.fixed].tolist()
    assert pick_of[weights.fixed].bincount().tolist() == [pick.count for pick in record.picks]
    moved = (weights.mu - before.mu)[weights.fixed].abs()
    reach = torch.tensor([pick.delta for pick in picks]) * before.sigma[weights.fixed].clamp(min=2.0**-20)
    small = (weights.code[weights.fixed] == 0) & (before.mu[weights.fixed].abs() < 2.0**-7)
    assert bool(((moved <= reach * (1 + 1e-5)) | small).all())
    assert bool(small.any())


def test_picks_of_a_later_round_are_noted_from_zero_and_only_for_its_own_weights():
    weights = random_weights(500, 6)
    fix_round(weights, 200, 1.0, DEFAULTS)
    earlier = weights.fixed.clone()
    pick_of = torch.full((500,), 99, dtype=torch.int32)
    record = fix_round(weights, 400, 1.0, DEFAULTS, pick_of=pick_of)
    assert bool((pick_of[earlier] == -1).all())
    assert set(pick_of.tolist()) == {-1, *range(len(record.picks))}


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 300), st.integers(0, 1000), st.integers(2, 9))
def test_doubled_weights_on_a_grid_twice_as_coarse_get_the_same_codes(n: int, seed: int, b: int):
    weights = random_weights(n, seed, b=b, spread=0.3)
    weights.sigma.clamp_(min=2.0**-19)
    doubled = Fixing.of(2 * weights.mu, 2 * weights.sigma, b - 1)
    (first, records), (second, twice) = rounds_of(weights), rounds_of(doubled)
    assert [picks_of(record) for record in records] == [picks_of(record) for record in twice]
    assert torch.equal(first.code, second.code)


def test_equal_counts_go_to_the_smaller_value_and_equal_distances_to_the_lower_index():
    half = 2.0**-8
    mu = torch.tensor([0.5 + half, 0.25 - half, 0.25 + half, 0.5 - half])
    weights = Fixing.of(mu, torch.full((4,), half), 7)
    record = fix_round(weights, 1, 1.0, FixingSettings(zero_fix=False))
    assert picks_of(record) == [[32, 1, 1, 1.0]]
    assert weights.fixed.tolist() == [False, True, False, False]


def test_equal_distances_at_the_end_of_a_mean_go_by_flat_index():
    everyone = Free.of(Fixing.of(torch.tensor([3.0, -3.0, 0.0]), torch.ones(3), 2))
    assert within_mean(everyone, 0, 1.6, 2, zero_fix=False).tolist() == [2, 0]


def test_a_target_beyond_the_weights_is_refused():
    with pytest.raises(ValueError, match=r"target 11 exceeds the number of weights, 10; legal: 0\.\.10"):
        fix_round(random_weights(10, 0), 11, 1.0, DEFAULTS)


def test_a_round_without_quota_picks_nothing():
    weights = random_weights(10, 0)
    fix_round(weights, 5, 1.0, DEFAULTS)
    before = copy.deepcopy(weights)
    record = fix_round(weights, 5, 1.0, DEFAULTS)
    assert (record.picks, record.phases, record.count, record.max_delta) == ((), 0, 0, 0.0)
    assert torch.equal(weights.mu, before.mu)
    assert torch.equal(weights.fixed, before.fixed)


@pytest.mark.parametrize("zero_fix", [True, False], ids=["zero_fix", "no_zero_fix"])
@pytest.mark.parametrize("scale", [0.0, 2.0**-9], ids=["zeros", "below_the_grid"])
def test_weights_below_the_grid_are_fixed_to_zero(scale: float, zero_fix: bool):
    weights = Fixing.of(scale * torch.tensor([1.0, -1.0, 0.5]), torch.full((3,), 1e-9), 7)
    record = fix_round(weights, 3, 1.0, FixingSettings(zero_fix=zero_fix))
    assert weights.code.tolist() == [0, 0, 0]
    assert weights.mu.tolist() == [0.0, 0.0, 0.0]
    assert record.max_delta == (1.0 if zero_fix or scale == 0 else 2048.0)


def test_codes_become_32_bit_where_values_need_it():
    weights = Fixing.of(torch.tensor([300.0, 0.1]), torch.tensor([1.0, 0.01]), 7)
    fix_round(weights, 2, 1.0, DEFAULTS)
    assert weights.code.dtype == torch.int32
    assert torch.equal(weights.mu, weights.code * 2.0**-7)
    assert int(weights.code[0]) > 32767


def test_phases_raise_omega_and_delta_in_turns():
    pairs = [(1, 1.0), (2, 1.0), (2, 3.0), (3, 3.0), (3, 9.0), (4, 9.0), (4, 27.0), (4, 81.0)]
    assert list(schedule(1.0, FixingSettings(inc=3, max_phases=8))) == pairs


def test_targets_are_rounded_up_but_not_by_rounding_errors():
    assert fixed_target(0.2, 11) == 3
    assert fixed_target(0.7, 10) == 7
    assert fixed_target(0.1 + 0.2, 10) == 3
    assert fixed_target(1.0, 26_122) == 26_122


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["mu", "sigma"])
def test_a_weight_that_is_not_finite_is_reported_with_its_tensor(what: str, value: float):
    weights = random_weights(10, 0)
    fix_round(weights, 3, 1.0, DEFAULTS)
    spoilt = int((~weights.fixed).nonzero()[-1])
    getattr(weights, what)[spoilt] = value
    with pytest.raises(Diverged, match=f"{what} of 'head', element {spoilt - 2}, is not finite"):
        fix_round(weights, 10, 1.0, DEFAULTS, sizes={"stem": 2, "head": 8})
    with pytest.raises(Diverged, match=f"{what} of weight {spoilt} in flat order is not finite"):
        fix_round(weights, 10, 1.0, DEFAULTS)


@pytest.mark.parametrize(
    ("large", "b", "fix"),
    [(2.0**18, 7, r"Set b to at most 6\."), (2.0**17 + 1, 7, r"Set b to at most 6\."), (1e30, 7, "no b in 1..15")],
    ids=["power", "just_above", "far"],
)
def test_a_weight_beyond_the_grid_is_reported_with_the_fix(large: float, b: int, fix: str):
    weights = Fixing.of(torch.tensor([0.1, -large]), torch.full((2,), 0.01), b)
    with pytest.raises(ConfigError, match=f"mu of 'w', element 1, is .* steps of 2\\^-{b}; legal: .*{fix}"):
        fix_round(weights, 2, 1.0, DEFAULTS, sizes={"w": 2})


def test_a_round_that_does_not_end_says_how_far_it_got():
    weights = Fixing.of(torch.tensor([0.0, 0.9]), torch.full((2,), 1e-3), 7)
    with pytest.raises(
        ConfigError,
        match=r"1 weights are left .* \(3\) phases, out of 1 free .*has come to 2.*Set inc, .* than 2",
    ):
        fix_round(weights, 2, 1.0, FixingSettings(max_phases=3, omega_max=2))
    assert weights.fixed.tolist() == [True, False]
