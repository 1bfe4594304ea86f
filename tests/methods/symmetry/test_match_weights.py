"""Weight matching against oracles, enumeration, and permutations that were planted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from match_cases import (
    brute_force,
    groups_and_weights,
    hidden_layers,
    inner_product,
    one_hidden,
    oracle,
    perceptron,
    planted,
    tensors,
    undone,
)
from paired_timing import threads
from scipy.optimize import linear_sum_assignment

from benchmark import ConfigError
from methods.symmetry import weight_matching
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.match import Matching, match
from methods.symmetry.matched import Match, apply
from methods.symmetry.weight_matching import match_weights


@pytest.mark.parametrize("case", oracle("match_one_hidden"), ids=lambda case: case["id"])
def test_one_hidden_layer_is_matched_as_in_the_oracle(case: dict[str, Any]):
    a, b = tensors(case["inputs"]["model_a"]), tensors(case["inputs"]["model_b"])
    groups, expected = one_hidden(len(a["b1"])), case["expected"]["weight"]
    found = match_weights(groups, a, b)
    assert found.objective == pytest.approx(expected["objective"], abs=1e-5)
    assert found.objective - sum(found.gains) == pytest.approx(expected["objective_identity"], abs=1e-5)
    assert len(found.starts) == 1  # exact: further runs would find the same
    if expected["unique"]:
        assert found.permutations["P"].tolist() == expected["perm"]
    aligned = apply(groups, found, b)
    x = torch.tensor(case["inputs"]["X"], dtype=torch.float64)
    logits = torch.relu(x @ aligned["W1"].T + aligned["b1"]) @ aligned["W2"].T + aligned["b2"]
    assert torch.allclose(logits, torch.tensor(case["expected"]["logits_b"], dtype=torch.float64), atol=2e-6)


@pytest.mark.parametrize("case", oracle("match_two_hidden"), ids=lambda case: case["id"])
@pytest.mark.parametrize("seed", range(10))
def test_ten_starts_find_the_global_optimum_of_two_hidden_layers(case: dict[str, Any], seed: int):
    a, b = tensors(case["inputs"]["params_a"]), tensors(case["inputs"]["params_b"])
    expected = case["expected"]["global_optimum"]
    found = match_weights(hidden_layers(5, 5), a, b, restarts=10, seed=seed)
    assert found.objective == pytest.approx(expected["objective"], abs=1e-5)
    assert {group: perm.tolist() for group, perm in found.permutations.items()} == {
        group: expected[group] for group in ("P_0", "P_1")
    }
    assert found.objective == max(found.starts)
    assert len(found.starts) == 10


def test_a_single_start_ends_in_one_of_the_known_local_optima():
    case = oracle("match_two_hidden")[0]
    a, b = tensors(case["inputs"]["params_a"]), tensors(case["inputs"]["params_b"])
    ends = {round(match_weights(hidden_layers(5, 5), a, b, restarts=1, seed=seed).objective, 5) for seed in range(20)}
    points = case["expected"]["coordinate_ascent_fixed_points_from_identity"]
    assert ends == {round(point["objective"], 5) for point in points}


@pytest.mark.parametrize("widths", [(3, 7, 2), (2, 4, 4, 2)])
def test_small_networks_are_matched_as_by_enumeration(widths: tuple[int, ...]):
    groups = hidden_layers(*widths[1:-1])
    a, b = perceptron(0, *widths), perceptron(1, *widths)
    found = match_weights(groups, a, b, restarts=20)
    assert found.objective == pytest.approx(brute_force(groups, a, b), rel=1e-9)


def test_every_accepted_step_gains_and_gains_lead_from_the_start_to_the_objective():
    groups = hidden_layers(30, 25, 20)
    a, b = perceptron(0, 8, 30, 25, 20, 3), perceptron(1, 8, 30, 25, 20, 3)
    found = match_weights(groups, a, b, restarts=1)
    start = inner_product(groups, a, b, Match(groups.identity(), 0.0))
    assert len(found.gains) > 3
    assert min(found.gains) > 0
    assert found.objective == pytest.approx(start + sum(found.gains), rel=1e-9)
    assert found.objective == pytest.approx(inner_product(groups, a, b, found), rel=1e-9)


def test_where_a_run_ends_no_single_group_can_gain_anything():
    groups = hidden_layers(30, 25, 20)
    a, b = perceptron(0, 8, 30, 25, 20, 3), perceptron(1, 8, 30, 25, 20, 3)
    found = match_weights(groups, a, b, restarts=1)
    for seed in range(3):
        again = match_weights(groups, a, apply(groups, found, b), restarts=1, seed=seed)
        assert again.gains == ()


@pytest.mark.parametrize(
    ("name", "noise"), [("resnet20", 0.0), ("resnet20", 0.5), ("wrn-10-1", 0.5), ("wrn-16-4", 0.5)]
)
def test_planted_permutations_of_residual_networks_are_recovered(name: str, noise: float):
    groups, weights = groups_and_weights(name)
    permutations, moved = planted(groups, weights, noise)
    found = match_weights(groups, weights, moved, restarts=1)
    assert undone(found, permutations)
    if noise == 0.0:
        assert all(torch.equal(tensor, weights[key]) for key, tensor in apply(groups, found, moved).items())


def test_zero_padded_shortcuts_are_matched_through_the_axes_that_two_groups_share():
    groups = PermutationGroups(
        {"S": 5, "Z": 4, "h": 6},
        {"in": ("S", None), "up": ("h", "S"), "down": (("S", "Z"), "h"), "out": (None, ("S", "Z"))},
    )
    shapes = {"in": (5, 3), "up": (6, 5), "down": (9, 6), "out": (2, 9)}
    source = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=source) for name, shape in shapes.items()}
    permutations, moved = planted(groups, weights, 0.05)
    assert undone(match_weights(groups, weights, moved), permutations)


def test_restarts_depend_on_the_seed_alone():
    groups = hidden_layers(12, 12)
    a, b = perceptron(0, 4, 12, 12, 3), perceptron(1, 4, 12, 12, 3)
    first, second = (match_weights(groups, a, b, restarts=4, seed=3) for _ in range(2))
    assert first.starts == second.starts
    assert all(torch.equal(first.permutations[group], second.permutations[group]) for group in groups.sizes)
    assert first.starts != match_weights(groups, a, b, restarts=4, seed=4).starts


def test_a_run_begins_where_it_is_told_to():
    groups = hidden_layers(12, 12)
    weights = perceptron(0, 4, 12, 12, 3)
    permutations, moved = planted(groups, weights, 0.0)
    found = match_weights(groups, moved, weights, restarts=1, start=permutations)
    assert found.gains == ()
    assert all(torch.equal(found.permutations[group], perm) for group, perm in permutations.items())


def test_tensors_are_weighted_by_the_inverse_of_the_prior_variance():
    groups = one_hidden(4)
    source = torch.Generator().manual_seed(0)
    a = {"W1": torch.randn(4, 3, generator=source), "b1": torch.zeros(4), "W2": torch.randn(2, 4, generator=source)}
    b = {"W1": a["W1"][[1, 0, 3, 2]], "b1": torch.zeros(4), "W2": a["W2"][:, [3, 2, 1, 0]]}
    flat = {"W1": 1.0, "b1": 1.0, "W2": 1.0}
    first = match_weights(groups, a, b, scales={**flat, "W2": 100.0})
    second = match_weights(groups, a, b, scales={**flat, "W1": 100.0})
    assert first.permutations["P"].tolist() == [1, 0, 3, 2]
    assert second.permutations["P"].tolist() == [3, 2, 1, 0]
    with pytest.raises(ValueError, match="scales lack 1 tensors that are matched, the first is 'W2'"):
        match_weights(groups, a, b, scales={"W1": 1.0, "b1": 1.0})


def test_standard_deviations_are_matched_along_where_means_say_nothing():
    groups = one_hidden(5)
    shapes = {"W1": (5, 3), "b1": (5,), "W2": (2, 5)}
    mu = {name: torch.zeros(shape) for name, shape in shapes.items()}
    source = torch.Generator().manual_seed(0)
    sigma = {name: torch.rand(shape, generator=source) for name, shape in shapes.items()}
    permutations, moved = planted(groups, sigma, 0.0)
    assert undone(match_weights(groups, mu, mu, sigmas=(sigma, moved)), permutations)


def test_running_statistics_do_not_count():
    groups, weights = groups_and_weights("wrn-10-1")
    permutations, moved = planted(groups, weights, 0.0)
    source = torch.Generator().manual_seed(0)
    for name in moved:
        if name.endswith("running_mean"):
            moved[name] = 1e3 * torch.randn(moved[name].shape, generator=source)
    assert undone(match_weights(groups, weights, moved, restarts=1), permutations)


def test_dead_and_duplicate_units_are_matched_without_nan():
    groups = one_hidden(6)
    source = torch.Generator().manual_seed(0)
    a = {"W1": torch.randn(6, 3, generator=source), "b1": torch.randn(6, generator=source)}
    a["W2"] = torch.randn(2, 6, generator=source)
    for name, axes in (("W1", 0), ("b1", 0), ("W2", 1)):
        a[name].index_fill_(axes, torch.tensor([0, 4]), 0.0)
        a[name].index_copy_(axes, torch.tensor([2]), a[name].index_select(axes, torch.tensor([1])))
    _, b = planted(groups, a, 0.0)
    found = match_weights(groups, a, b)
    assert found.objective == pytest.approx(sum(float(tensor.square().sum()) for tensor in a.values()), rel=1e-6)
    assert all(torch.equal(apply(groups, found, b)[name], tensor) for name, tensor in a.items())


def test_matching_leaves_both_networks_as_they_were():
    groups, weights = groups_and_weights("wrn-10-1")
    _, moved = planted(groups, weights, 0.5)
    before = {name: tensor.clone() for name, tensor in (weights | {f"b.{k}": v for k, v in moved.items()}).items()}
    match_weights(groups, weights, moved, restarts=2)
    after = weights | {f"b.{name}": tensor for name, tensor in moved.items()}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(("from_elements", "expected"), [(10_000_000, 1), (1, 2)])
def test_small_networks_are_matched_on_one_thread(monkeypatch: pytest.MonkeyPatch, from_elements: int, expected: int):
    used: list[int] = []

    def assigned(*args: Any, **kwargs: Any) -> Any:
        used.append(torch.get_num_threads())
        return linear_sum_assignment(*args, **kwargs)

    monkeypatch.setattr(weight_matching, "linear_sum_assignment", assigned)
    monkeypatch.setattr(weight_matching, "THREADED_ELEMENTS", from_elements)
    groups, a, b = hidden_layers(6, 5), perceptron(0, 3, 6, 5, 2), perceptron(1, 3, 6, 5, 2)
    with threads(2):
        match_weights(groups, a, b, restarts=2)
        assert set(used) == {expected}
        assert torch.get_num_threads() == 2
        with pytest.raises(IndexError):
            match_weights(groups, a, b, start={"P_0": torch.full((6,), 9)})  # no unit 9
        assert torch.get_num_threads() == 2


def test_two_matches_in_a_row_are_one():
    groups = hidden_layers(6, 5)
    weights = perceptron(0, 3, 6, 5, 2)
    source = torch.Generator().manual_seed(0)
    first, then = Match(groups.random(source), 0.0), Match(groups.random(source), 0.0)
    sequential = apply(groups, then, apply(groups, first, weights))
    together = apply(groups, then.after(first, groups), weights)
    assert all(torch.equal(sequential[name], together[name]) for name in weights)


def test_wrong_calls_name_what_does_not_fit():
    groups, a = hidden_layers(4), perceptron(0, 3, 4, 2)
    with pytest.raises(ValueError, match=r"'layer0.weight' is \(4, 3\) in one network and missing in the other"):
        match_weights(groups, a, {})
    with pytest.raises(ValueError, match="do not know the tensor 'strange'"):
        match_weights(groups, {**a, "strange": a["layer0.bias"]}, a)
    with pytest.raises(ValueError, match="0 restarts; legal: from 1"):
        match_weights(groups, a, a, restarts=0)
    with pytest.raises(ConfigError, match=r"matching 'wieght' is unknown. Did you mean 'weight'"):
        Matching("wieght")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="does not look at standard deviations"):
        match(groups, a, a, Matching("cosine_fc1"), sigmas=(a, a))
