"""The moving average of the weights: its formula, and that it is what is validated, selected and kept."""

from __future__ import annotations

import copy

import pytest
import torch
from map_cases import convolutional, distance, fit, problem
from torch import nn

from benchmark import load_into, weights_of
from methods.map.averaging import AveragedWeights
from methods.map.evaluation import evaluate


def test_the_average_is_the_recursion_with_its_warm_up():
    net = convolutional()
    average, expected = AveragedWeights(net, 0.5), {n: w.clone().double() for n, w in weights_of(net).items()}
    decays = []
    for t in range(12):
        with torch.no_grad():
            for weight in weights_of(net).values():
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(t)))
        average.update(t)
        decays.append(min(0.5, (1 + t) / (10 + t)))
        expected = {n: decays[-1] * expected[n] + (1 - decays[-1]) * w for n, w in weights_of(net).items()}
    assert decays[0] == 0.1
    assert decays[7] < decays[8] == decays[11] == 0.5
    average.put()
    for name, found in weights_of(net).items():  # running statistics among them
        assert torch.allclose(found.double(), expected[name], atol=1e-5), name


def test_buffers_that_are_no_statistics_stay_the_networks_own():
    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    net = Masked()
    average = AveragedWeights(net, 0.9)
    average.update(0)
    average.put()
    assert net.get_buffer("mask").tolist() == [0.0, -torch.inf]


def test_the_average_is_in_place_inside_and_the_trained_weights_are_afterwards():
    net = nn.Linear(2, 2)
    average = AveragedWeights(net, 0.9)
    with torch.no_grad():
        net.weight.add_(1.0)
    trained = copy.deepcopy(net.state_dict())
    with average.in_place():
        assert torch.allclose(net.weight, trained["weight"] - 1.0, atol=1e-6)
    assert torch.equal(net.weight, trained["weight"])


@pytest.mark.parametrize("select", ["best", "last"])
def test_validation_and_result_are_those_of_the_average(tmp_path, select):
    config = {"epochs": 3, "select": select}
    plain = fit(tmp_path / "plain", config, build=convolutional)
    averaged = fit(tmp_path / "averaged", {**config, "ema": 0.9}, build=convolutional)
    assert distance(plain, averaged) > 1e-3
    net, data = convolutional(9), problem().val
    assert data is not None
    load_into(net, averaged.weights)
    assert evaluate(net, data).nll == averaged.facts()["val_nll"] != plain.facts()["val_nll"]


def test_training_itself_does_not_see_the_average(tmp_path):
    losses = []
    for name, ema in (("a", 0.0), ("b", 0.9)):
        fit(tmp_path / name, {"ema": ema}, build=convolutional)
        losses.append([line.split('"val_nll"')[0] for line in (tmp_path / name / "history.jsonl").open()])
    assert losses[0] == losses[1]
    assert '"loss"' in losses[0][0]
