"""Matching by activations and by the cosine of first-layer rows."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from match_cases import groups_and_weights, hidden_layers, network_of, one_hidden, oracle, planted, tensors
from torch import Tensor, nn

from benchmark import ConfigError, Split, weights_of
from methods.symmetry.activation_matching import Activations, match_activations
from methods.symmetry.cosine_matching import cosine_similarity, match_cosine
from methods.symmetry.discover import groups_of
from methods.symmetry.groups import PermutationGroups, Tap
from methods.symmetry.match import Matching, match


def split_of(x: Tensor) -> Split:
    """(n, features) as images of one row."""
    return Split(x.float().reshape(len(x), 1, 1, -1), torch.zeros(len(x), dtype=torch.int64))


def small_network(inputs: int, units: int, classes: int) -> nn.Sequential:
    layers = OrderedDict(flat=nn.Flatten(), fc=nn.Linear(inputs, units), act=nn.ReLU(), head=nn.Linear(units, classes))
    return nn.Sequential(layers)


def groups_of_small(units: int) -> PermutationGroups:
    axes = {"fc.weight": ("P", None), "fc.bias": ("P",), "head.weight": (None, "P"), "head.bias": (None,)}
    return PermutationGroups({"P": units}, axes, taps={"P": Tap("head", "input")})


def named(model: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"W1": "fc.weight", "b1": "fc.bias", "W2": "head.weight", "b2": "head.bias"}
    return {names[name]: tensor.float() for name, tensor in model.items()}


@pytest.mark.parametrize("case", oracle("match_one_hidden"), ids=lambda case: case["id"])
def test_activations_are_matched_as_in_the_oracle_in_any_batches(case: dict[str, Any]):
    a, b = named(tensors(case["inputs"]["model_a"])), named(tensors(case["inputs"]["model_b"]))
    units, expected = len(a["fc.bias"]), case["expected"]["activation"]
    split = split_of(torch.tensor(case["inputs"]["X"]))
    for batch_size in (5, 1000):
        network = small_network(4, units, len(b["head.bias"]))
        reader = Activations(network, groups_of_small(units), split, batch_size)
        similarity = reader.similarities(a, b)["P"]
        assert torch.allclose(similarity, torch.tensor(expected["similarity"], dtype=torch.float64), atol=2e-5)
        found = match(groups_of_small(units), a, b, Matching("activation", activations=reader))
        assert found.objective == pytest.approx(expected["objective"], abs=1e-4)
        if expected["unique"]:
            assert found.permutations["P"].tolist() == expected["perm"]


def test_batches_are_as_large_as_suits_the_activations(monkeypatch: pytest.MonkeyPatch):
    network, source = small_network(4, 6, 3), torch.Generator().manual_seed(0)
    split = split_of(torch.rand(5000, 4, generator=source))
    weights = weights_of(network)
    lengths: list[int] = []
    handle = network.fc.register_forward_pre_hook(lambda module, inputs: lengths.append(len(inputs[0])))
    by_default = Activations(network, groups_of_small(6), split).similarities(weights, weights)["P"]
    assert lengths.count(4096) == lengths.count(904) == 2
    lengths.clear()
    monkeypatch.setattr("methods.symmetry.activation_matching.BATCH_BYTES", 1000 * 6 * 4)
    smaller = Activations(network, groups_of_small(6), split).similarities(weights, weights)["P"]
    assert max(lengths) == 1000
    monkeypatch.setattr("methods.symmetry.activation_matching.BATCH_BYTES", 1)
    least = Activations(network, groups_of_small(6), split).similarities(weights, weights)["P"]
    handle.remove()
    assert torch.allclose(by_default, smaller, rtol=1e-5)
    assert torch.allclose(by_default, least, rtol=1e-5)


@pytest.mark.parametrize("case", oracle("match_one_hidden"), ids=lambda case: case["id"])
def test_cosines_are_matched_as_in_the_oracle(case: dict[str, Any]):
    a, b = tensors(case["inputs"]["model_a"]), tensors(case["inputs"]["model_b"])
    expected = case["expected"]["cosine_fc1"]
    assert torch.allclose(
        cosine_similarity(a["W1"], b["W1"]), torch.tensor(expected["similarity"], dtype=torch.float64), atol=1e-5
    )
    found = match(one_hidden(len(a["b1"])), a, b, Matching("cosine_fc1"))
    assert found.objective == pytest.approx(expected["objective"], abs=1e-5)
    assert not expected["unique"] or found.permutations["P"].tolist() == expected["perm"]


def test_a_row_of_zeros_is_like_no_other():
    (case,) = oracle("cosine_zero_row")
    a, b = (tensors({"W1": case["inputs"][key]}) for key in ("W1_a", "W1_b"))
    expected = case["expected"]
    found = match_cosine(PermutationGroups({"P": 4}, {"W1": ("P", None)}), a, b)
    assert torch.allclose(
        cosine_similarity(a["W1"], b["W1"]), torch.tensor(expected["similarity"], dtype=torch.float64), atol=1e-5
    )
    assert found.objective == pytest.approx(expected["objective"], abs=1e-5)
    assert found.permutations["P"].tolist() == expected["perm"]


def test_cosines_are_refused_for_several_hidden_layers():
    with pytest.raises(ConfigError, match=r"has 2 groups of units. Use matching: weight"):
        match_cosine(hidden_layers(4, 4), {}, {})


def test_correlations_are_those_of_numpy_and_zero_for_dead_units():
    torch.manual_seed(0)
    network, other = small_network(6, 5, 3), small_network(6, 5, 3)
    a, b = weights_of(network), weights_of(other)
    a["fc.bias"][2] = -100.0
    split = split_of(torch.rand(40, 6))
    found = Activations(network, groups_of_small(5), split, 7, normalise="corr").similarities(a, b)["P"].numpy()
    x = split.inputs.flatten(1)
    z_a, z_b = (torch.relu(x @ w["fc.weight"].T + w["fc.bias"]).numpy() for w in (a, b))
    assert not found[2].any()
    assert np.isfinite(found).all()
    alive = [unit for unit in range(5) if z_a[:, unit].any()]
    live_b = [unit for unit in range(5) if z_b[:, unit].any()]
    expected = np.corrcoef(z_a[:, alive].T, z_b[:, live_b].T)[: len(alive), len(alive) :]
    np.testing.assert_allclose(found[np.ix_(alive, live_b)], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "wrn-10-1"])
def test_planted_permutations_of_residual_networks_are_recovered_from_activations(name: str):
    groups, weights = groups_and_weights(name)
    permutations, moved = planted(groups, weights, 0.0)
    source = torch.Generator().manual_seed(0)
    split = Split(torch.randn(40, 3, 8, 8, generator=source), torch.zeros(40, dtype=torch.int64))
    network = network_of(name, seed=1)
    network.train()
    before = {key: tensor.clone() for key, tensor in weights_of(network).items()}
    reader = Activations(network, groups, split, batch_size=15, normalise="corr")
    found = match_activations(reader, weights, moved)
    for group, own in reader.similarities(weights, weights).items():
        alive = own.diagonal() > 0.5  # dead units are all alike
        assert int(alive.sum()) >= len(own) - 3
        back = permutations[group][found.permutations[group]]
        assert torch.equal(back[alive], torch.arange(len(back))[alive])
    assert network.training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights_of(network).items())


def test_activations_of_the_reference_are_computed_once_and_anew_after_a_change():
    torch.manual_seed(0)
    network = small_network(6, 5, 3)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    a, b = weights_of(small_network(6, 5, 3)), weights_of(small_network(6, 5, 3))
    reader = Activations(network, groups_of_small(5), split_of(torch.rand(10, 6)), 5)
    counts = []
    for _ in range(2):
        reader.similarities(a, b)
        counts.append(len(calls))
    first = reader.similarities(a, b)["P"]
    a["fc.weight"].mul_(2)
    a["fc.bias"].mul_(2)
    assert torch.allclose(reader.similarities(a, b)["P"], 2 * first)
    assert counts == [4, 6]


def test_heads_have_no_activations_to_be_matched_by():
    network = network_of("deit-micro")
    split = Split(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="Use matching: weight"):
        Activations(network, groups_of(network), split)
    with pytest.raises(ConfigError, match="needs inputs"):
        Matching("activation")
