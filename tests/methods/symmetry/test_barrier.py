"""Barriers: the oracle's curves, stacked and single points alike, running statistics, signs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problems import small_with_token, split
from torch import Tensor, nn

from benchmark import Split, copy_of, forward, weights_of
from methods.finetuning.statistics import reset_statistics
from methods.symmetry import barrier as module
from methods.symmetry.barrier import barrier

CASES = json.loads((Path(__file__).parent / "weight_space_oracles.json").read_text())["cases"]
(CASE,) = [case for case in CASES if case["kind"] == "loss_barrier"]


def perceptron() -> nn.Module:
    """Of the shape of the oracle's."""
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def weights_in(net: dict[str, Any], perm: list[int] | None = None) -> dict[str, Tensor]:
    order = perm or list(range(6))
    w1, b1, w2, b2 = (torch.tensor(net[name]) for name in ("W1", "b1", "W2", "b2"))
    return {"1.weight": w1[order], "1.bias": b1[order], "3.weight": w2[:, order], "3.bias": b2}


def data_in(inputs: dict[str, Any]) -> Split:
    return Split(torch.tensor(inputs["X"]).view(-1, 1, 2, 2), torch.tensor(inputs["y"]))


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("kind", ["raw", "matched"])
def test_curves_are_those_of_the_oracle(kind, stacked, monkeypatch):
    if not stacked:
        monkeypatch.setattr(module, "_STACKED", 0)
    inputs, expected = CASE["inputs"], CASE["expected"][kind]
    perm = CASE["expected"]["perm"] if kind == "matched" else None
    a, b = weights_in(inputs["model_a"]), weights_in(inputs["model_b"], perm)
    found = barrier(perceptron(), a, b, data_in(inputs), grid=11, batch_size=5)
    assert found.t == pytest.approx(inputs["t"])
    assert found.loss == pytest.approx(expected["loss"], abs=1e-6)
    assert found.error == pytest.approx(expected["error"], abs=1e-9)
    assert found.loss_barrier == pytest.approx(expected["barrier_loss"], abs=1e-6)
    assert found.error_barrier == pytest.approx(expected["barrier_error"], abs=1e-9)
    assert found.midpoint_loss == pytest.approx(expected["midpoint_loss"], abs=1e-6)


def test_planted_permutations_have_a_barrier_and_none_when_undone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = perceptron()
    a = {name: 2 * tensor for name, tensor in copy_of(weights_of(net)).items()}
    perm = torch.tensor([3, 5, 0, 1, 4, 2])
    b = {name: tensor.clone() for name, tensor in a.items()}
    b |= {"1.weight": a["1.weight"][perm], "1.bias": a["1.bias"][perm], "3.weight": a["3.weight"][:, perm]}
    data = split(64, shape=(1, 2, 2))
    raw = barrier(net, a, b, data)
    assert raw.loss[0] == pytest.approx(raw.loss[-1], abs=1e-6)
    assert abs(raw.midpoint_loss) > 1e-3
    assert raw.distance > 1
    order = torch.argsort(perm)
    back = b | {"1.weight": b["1.weight"][order], "1.bias": b["1.bias"][order], "3.weight": b["3.weight"][:, order]}
    matched = barrier(net, a, back, data)
    assert matched.loss_barrier <= 1e-6
    assert matched.error_barrier == pytest.approx(0, abs=1e-12)
    assert matched.distance == 0


def test_distances_are_those_of_each_parameter():
    net = small_with_token()
    a, b = copy_of(weights_of(net)), copy_of(weights_of(small_with_token(1)))
    found = barrier(net, a, b, split(20), grid=3)
    assert found.distances.keys() == dict(net.named_parameters()).keys()
    for name, far in found.distances.items():
        assert far == pytest.approx(float((a[name] - b[name]).norm()), rel=1e-5)
    total = sum(float((a[name] - b[name]).square().sum()) for name in found.distances)
    assert found.distance == pytest.approx(total**0.5, rel=1e-5)


def test_convolutions_with_norms_give_the_loss_of_the_network_at_each_point():
    net, data = small_with_token(), split(50)
    a, b = copy_of(weights_of(net)), copy_of(weights_of(small_with_token(1)))
    before = copy_of(weights_of(net))
    found = barrier(net, a, b, data, grid=5, batch_size=20)
    for t, loss in zip(found.t, found.loss, strict=True):
        between = {name: (1 - t) * a[name] + t * b[name] for name in a}
        expected = nn.functional.cross_entropy(forward(net, between, data.inputs), data.labels)
        assert loss == pytest.approx(float(expected), rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(net).items())


def test_statistics_are_reset_at_every_point_when_training_data_is_given():
    net, data, train = small_with_token(), split(50), split(80, seed=1)
    a, b = copy_of(weights_of(net)), copy_of(weights_of(small_with_token(1)))
    for weights in (a, b):
        weights["norm.running_mean"] += 5  # wrong everywhere: only a reset forgives it
    found = barrier(net, a, b, data, grid=3, reset=train, seed=4)
    middle = {name: (a[name] + b[name]) / 2 for name in a}
    middle |= reset_statistics(net, middle, train, 256, 4)
    expected = nn.functional.cross_entropy(forward(net, middle, data.inputs), data.labels)
    assert found.loss[1] == pytest.approx(float(expected), rel=1e-5)
    good = reset_statistics(net, b, train, 256, 4)
    assert barrier(net, a, b | good, data, grid=3, reset=train, seed=4) == found


@pytest.mark.parametrize("grid", [1, 2, 10])
def test_grids_without_a_midpoint_are_refused(grid):
    net = small_with_token()
    with pytest.raises(ValueError, match="legal: 3, 5, 7"):
        barrier(net, weights_of(net), weights_of(net), split(8), grid=grid)


def test_ends_of_different_networks_are_refused():
    net = small_with_token()
    with pytest.raises(ValueError, match="same names and shapes"):
        barrier(net, weights_of(net), weights_of(perceptron()), split(8))
