"""Relabelling as such: undoing it, doing two at once, concatenated axes, views, axes of samples in front."""

from __future__ import annotations

import pytest
import torch
from group_cases import CASES

from benchmark import weights_of
from methods.symmetry.check import moving, random_weights
from methods.symmetry.discover import groups_of
from methods.symmetry.groups import PermutationGroups, composed, inverse

PADDED = PermutationGroups(
    {"a": 2, "b": 3}, {"wide": (("a", 1, "b"), None), "pixels": (None, "b", None)}, views={"pixels": (2, 3, 2)}
)
AB = {"a": torch.tensor([1, 0]), "b": torch.tensor([2, 0, 1])}


def case(name, seed=0):
    network = CASES[name][0]()
    groups = groups_of(network)
    generator = torch.Generator().manual_seed(seed)
    return groups, random_weights(network, generator), generator


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet20", "distilled", "own declaration"])
def test_the_inverse_undoes_a_relabelling_bit_for_bit(name):
    groups, weights, generator = case(name)
    moves = moving(groups, generator)
    moved = groups.permuted(weights, moves)
    assert any(not torch.equal(moved[tensor], weights[tensor]) for tensor in weights)
    back = groups.permuted(moved, inverse(moves))
    assert all(torch.equal(back[tensor], weights[tensor]) for tensor in weights)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet20", "distilled", "own declaration"])
def test_two_relabellings_are_one_by_their_composition(name):
    groups, weights, generator = case(name)
    first, then = groups.random(generator), groups.random(generator)
    twice = groups.permuted(groups.permuted(weights, first), then)
    once = groups.permuted(weights, composed(first, then))
    assert all(torch.equal(once[tensor], twice[tensor]) for tensor in weights)


def test_composition_of_different_groups_keeps_both():
    both = composed({"a": AB["a"]}, {"b": AB["b"]})
    assert {group: perm.tolist() for group, perm in both.items()} == {"a": [1, 0], "b": [2, 0, 1]}
    assert composed(AB, inverse(AB))["b"].tolist() == [0, 1, 2]


def test_slot_i_gets_the_unit_that_the_permutation_names():
    groups = PermutationGroups({"h": 3}, {"w": ("h", None), "out": (None, "h")})
    w = torch.tensor([[10.0, 11.0], [20.0, 21.0], [30.0, 31.0]])
    moved = groups.permuted({"w": w, "out": w.T}, {"h": torch.tensor([2, 0, 1])})
    assert moved["w"].tolist() == [[30.0, 31.0], [10.0, 11.0], [20.0, 21.0]]
    assert moved["out"].tolist() == moved["w"].T.tolist()


def test_groups_laid_end_to_end_move_each_within_its_own_entries():
    wide = torch.arange(6.0)[:, None]
    assert PADDED.permuted_tensor("wide", wide, AB).flatten().tolist() == [1, 0, 2, 5, 3, 4]
    assert PADDED.permuted_tensor("wide", wide, {"b": AB["b"]}).flatten().tolist() == [0, 1, 2, 5, 3, 4]
    assert PADDED.places("b") == {"wide": ((0, 3),), "pixels": ((1, 0),)}


def test_a_view_moves_the_pixels_of_a_unit_together():
    rows = torch.arange(12.0).reshape(2, 6)
    moved = PADDED.permuted_tensor("pixels", rows, AB)
    assert moved.tolist() == [[4, 5, 0, 1, 2, 3], [10, 11, 6, 7, 8, 9]]


def test_the_very_same_tensors_come_back_where_nothing_moves():
    groups, weights, generator = case("cnn")
    assert all(tensor is weights[name] for name, tensor in groups.permuted(weights, {}).items())
    group = next(iter(groups.sizes))
    moved = groups.permuted(weights, {group: moving(groups, generator)[group]})
    assert {name for name in weights if moved[name] is not weights[name]} == groups.places(group).keys()


@pytest.mark.parametrize("name", ["cnn", "resnet20", "distilled"])
def test_stacked_samples_are_relabelled_alike(name):
    groups, weights, generator = case(name)
    stacked = {tensor: torch.stack([weights[tensor], 2 * weights[tensor]]) for tensor in weights}
    moves = moving(groups, generator)
    one, many = groups.permuted(weights, moves), groups.permuted(stacked, moves, leading=1)
    assert all(torch.equal(many[tensor], torch.stack([one[tensor], 2 * one[tensor]])) for tensor in weights)


def test_random_permutations_follow_the_generator_and_the_identity_moves_nothing():
    groups = groups_of(CASES["mlp"][0]())
    draws = [groups.random(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert all(torch.equal(draws[0][group], draws[1][group]) for group in groups.sizes)
    assert any(not torch.equal(draws[0][group], draws[2][group]) for group in groups.sizes)
    assert {group: perm.tolist() for group, perm in groups.identity().items()} == {
        group: list(range(size)) for group, size in groups.sizes.items()
    }


def test_an_unknown_tensor_is_refused():
    with pytest.raises(KeyError, match="strange"):
        PADDED.permuted({"strange": torch.zeros(2)}, AB)


def test_relabelling_preserves_the_norm_of_every_tensor():
    network = CASES["distilled"][0]()
    groups, weights = groups_of(network), weights_of(network)
    moved = groups.permuted(weights, moving(groups, torch.Generator().manual_seed(3)))
    assert all(torch.equal(moved[n].flatten().sort()[0], weights[n].flatten().sort()[0]) for n in weights)
