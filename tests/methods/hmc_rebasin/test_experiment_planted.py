"""Planted permutations: shared out over groups, found again after training, without a barrier once undone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from experiment_cases import UNITS, chains_of, digits_like, material_of, numbers, permuted_copies, with_norms

from methods.hmc_rebasin.planted import planted_transpositions, planted_values, shares


def test_planted_permutations_are_found_and_the_barrier_is_theirs(tmp_path):
    problem = replace(digits_like(), budget=0.4)
    _, copies = permuted_copies(problem, 2)
    facts = planted_transpositions(material_of(tmp_path / "a", problem, chains_of(problem, copies)))
    rows = numbers(tmp_path / "a", "planted")
    assert [int(row["planted"]) for row in rows] == planted_values({"P": UNITS}, 8)
    assert all(row["planted"] == row["found_start"] == row["found"] and row["undone"] == "1" for row in rows)
    assert facts["planted_recovered"] == 1
    assert abs(facts["planted_barrier_matched"]) < 1e-3
    assert facts["planted_barrier_raw"] > 0.02
    again = planted_transpositions(material_of(tmp_path / "b", problem, chains_of(problem, copies)))
    assert again == facts
    assert numbers(tmp_path / "b", "planted") == rows


def test_networks_with_running_statistics_have_no_barrier_when_undone(tmp_path):
    problem = replace(with_norms(), budget=0.02)
    _, copies = permuted_copies(problem, 2)
    facts = planted_transpositions(material_of(tmp_path, problem, chains_of(problem, copies)))
    assert facts["planted_recovered"] == 1
    assert abs(facts["planted_barrier_matched"]) < 1e-3


def test_values_reach_from_one_to_the_most_that_all_groups_can_have():
    assert planted_values({"P": 128}, 8)[0] == 1
    assert planted_values({"P": 128}, 8)[-1] == 127
    assert planted_values({"P": 3, "Q": 2}, 8) == [1, 2, 3]
    assert planted_values({"P": 1}, 8) == []


@pytest.mark.parametrize("sizes", [{"P": 5}, {"P": 16, "Q": 32, "R": 7, "S": 1}, {"P": 2, "Q": 2, "R": 2}])
def test_shares_add_up_in_proportion_and_fit_the_groups(sizes):
    room = sum(size - 1 for size in sizes.values())
    for count in range(room + 1):
        share = shares(count, sizes)
        assert sum(share.values()) == count
        assert all(0 <= share[group] <= size - 1 for group, size in sizes.items())
        assert all(abs(share[group] - count * (size - 1) / room) < 1 for group, size in sizes.items())
    with pytest.raises(ValueError, match=f"legal: 0..{room}"):
        shares(room + 1, sizes)
