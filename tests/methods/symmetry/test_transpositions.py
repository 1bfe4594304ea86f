"""Numbers of transpositions against oracles, their invariants, and planted permutations."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from match_cases import oracle

from methods.symmetry.transpositions import (
    cayley_distance,
    chance,
    cycles,
    planted_permutation,
    transpositions,
    transpositions_of,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("case", oracle("number_of_transpositions"), ids=lambda case: case["id"])
def test_cycles_and_transpositions_are_those_of_the_oracle(case: dict[str, Any]):
    perm, expected = case["inputs"]["perm"], case["expected"]
    found = cycles(torch.tensor(perm))
    assert sorted(sorted(cycle) for cycle in found) == sorted(sorted(cycle) for cycle in expected["cycles"])
    assert all(perm[at] == after for cycle in found for at, after in zip(cycle, cycle[1:] + cycle[:1], strict=True))
    assert transpositions(torch.tensor(perm)) == transpositions(perm) == expected["not_count"]


def test_inverse_conjugate_and_distance_are_those_of_the_oracle():
    (case,) = oracle("not_invariants")
    p, q, expected = torch.tensor(case["inputs"]["p"]), torch.tensor(case["inputs"]["q"]), case["expected"]
    assert transpositions(p) == expected["not_p"]
    assert transpositions(torch.argsort(p)) == expected["not_inverse"]
    assert transpositions(q[p[torch.argsort(q)]]) == expected["not_conjugate"]
    assert cayley_distance(p, q) == expected["cayley_distance"]
    assert cayley_distance(q, p) == expected["cayley_distance_reversed"]


def test_the_distance_is_a_metric_that_relabelling_does_not_change():
    source = generator(1)
    for _ in range(50):
        p, q, r, s = (torch.randperm(9, generator=source) for _ in range(4))
        assert cayley_distance(p, p) == 0
        assert cayley_distance(p, q) == cayley_distance(q, p) > 0 or torch.equal(p, q)
        assert cayley_distance(p, r) <= cayley_distance(p, q) + cayley_distance(q, r)
        assert cayley_distance(s[p], s[q]) == cayley_distance(p, q)


def test_the_chance_line_is_that_of_the_oracle():
    (case,) = oracle("not_chance_line")
    for n, expected in case["expected"].items():
        found = chance(int(n))
        assert (found.mean, found.std) == pytest.approx((expected["mean"], expected["std"]), abs=1e-5)


def test_the_chance_line_is_that_of_random_permutations():
    source = generator(2)
    found = [transpositions(torch.randperm(16, generator=source)) for _ in range(2000)]
    expected = chance(16)
    assert statistics.fmean(found) == pytest.approx(expected.mean, abs=4 * expected.std / 2000**0.5)
    assert statistics.stdev(found) == pytest.approx(expected.std, rel=0.08)


def test_several_groups_are_summed_and_compared_with_chance_as_in_the_oracle():
    (case,) = oracle("not_multi_group")
    found = transpositions_of({name: torch.tensor(perm) for name, perm in case["inputs"]["groups"].items()})
    expected = case["expected"]
    assert (found.per_group, found.total) == (expected["per_group"], expected["total"])
    assert (found.normalised, found.z) == pytest.approx((expected["normalised"], expected["z"]), abs=1e-5)


def test_single_units_can_move_nowhere_and_are_not_divided_by():
    found = transpositions_of({"a": torch.tensor([0])})
    assert (found.total, found.normalised, found.z) == (0, 0.0, 0.0)


def test_planted_permutations_have_exactly_the_transpositions_asked_for():
    (case,) = oracle("planted_generator")
    for shown, expected in zip(case["inputs"], case["expected"], strict=True):
        assert transpositions(expected["perm"]) == shown["target"]
        assert transpositions(planted_permutation(shown["n"], shown["target"], generator())) == shown["target"]
    for count in range(12):
        drawn = {tuple(planted_permutation(12, count, generator(seed)).tolist()) for seed in range(5)}
        assert {transpositions(perm) for perm in drawn} == {count}
        assert len(drawn) > 1 or count == 0
    assert torch.equal(planted_permutation(12, 0, generator()), torch.arange(12))


@pytest.mark.parametrize("count", [-1, 12])
def test_transpositions_that_no_permutation_has_are_refused(count: int):
    with pytest.raises(ValueError, match=r"12 elements has -?\d+ transpositions; legal: 0\.\.11"):
        planted_permutation(12, count, generator())


def test_what_is_no_permutation_is_refused():
    with pytest.raises(ValueError, match=r"not a permutation of 0\.\.2: 0, 0, 2"):
        transpositions([0, 0, 2])
    with pytest.raises(ValueError, match="no distance"):
        cayley_distance([0, 1], [0, 1, 2])
