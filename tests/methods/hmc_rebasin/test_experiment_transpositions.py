"""Transpositions by lag: those that were planted between states, whatever a network consists of."""

from __future__ import annotations

import pytest
import torch
from experiment_cases import UNITS, chains_of, digits_like, material_of, numbers, permuted_copies, with_norms

from methods.hmc_rebasin.lags import lag_figure, transpositions_by_lag
from methods.symmetry.transpositions import Chance, cayley_distance, chance


def test_transpositions_of_every_pair_are_those_between_the_planted_permutations(tmp_path):
    problem = digits_like()
    permutations, copies = permuted_copies(problem, 16)
    material = material_of(tmp_path, problem, chains_of(problem, copies, 2))
    facts = transpositions_by_lag(material)
    rows = numbers(tmp_path, "transpositions")
    for row in rows:
        first, second = (permutations[8 * int(row[f"chain_{end}"]) + int(row[f"state_{end}"])] for end in "ab")
        planted = sum(cayley_distance(first[group], second[group]) for group in first)
        assert int(row["transpositions"]) == planted
        assert float(row["relative_to_chance"]) == pytest.approx(planted / chance(UNITS).mean)
    kinds = [row["pairs"] for row in rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {"1": 8, "5": 6, "across": 8}
    assert facts.keys() == {"not_lag1", "not_across"}
    of_lag1 = [float(row["relative_to_chance"]) for row in rows if row["pairs"] == "1"]
    assert facts["not_lag1"] == pytest.approx(sum(of_lag1) / len(of_lag1))


def test_a_chain_that_keeps_its_labels_has_none(tmp_path):
    problem = digits_like()
    _, copies = permuted_copies(problem, 1)
    generator = torch.Generator().manual_seed(1)
    states = [
        {name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator) for name, tensor in copies[0].items()}
        for _ in range(22)
    ]
    facts = transpositions_by_lag(material_of(tmp_path, problem, chains_of(problem, states)))
    assert facts == {"not_lag1": 0.0, "not_lag20": 0.0}


def test_deep_networks_with_running_statistics_count_all_groups(tmp_path):
    problem = with_norms()
    permutations, copies = permuted_copies(problem, 2)
    material = material_of(tmp_path, problem, chains_of(problem, copies))
    transpositions_by_lag(material)
    (row,) = numbers(tmp_path, "transpositions")
    assert len(permutations[0]) > 2
    for group in permutations[0]:
        assert int(row[f"of_{group}"]) == cayley_distance(permutations[0][group], permutations[1][group])


def test_the_chance_line_is_always_in_the_picture():
    for values in ([0.0, 0.1], [1.0], [1.3]):
        assert "chance" in lag_figure({"1": values}, Chance(12.6, 1.3))
