"""Rate and accuracy on digits of small networks trained by plain SGD: the ranges that three seeds stay in.

How much a label carries depends on the scale of the base network's weights. L2 of 1e-3 makes them small: a perceptron
from Adam or with less L2 has labels of up to 6 bits on the same grid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixing_cases import METHOD, fit
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import Problem, Split, evaluating, forward, weights_of
from methods.fixed_weights.codebook import value_counts
from methods.fixed_weights.report import entropy_bits
from methods.fixed_weights.scope import scope_of
from methods.fixed_weights.state import FixingState
from methods.optimisers import Group, Sgd
from methods.probabilistic_weight_fixing.config import WeightFixingConfig
from methods.probabilistic_weight_fixing.rounds import fix_round, fixed_target
from methods.probabilistic_weight_fixing.sigma import initial_sigma
from methods.training import cosine
from tasks.digits import Digits

BATCH, EPOCHS = 32, 30
REDUCED: dict[str, Any] = {"fractions": METHOD.Config().fractions, "rest_epochs": 1, "start_fraction": 0.05}
"""Of the recommended recipe only the passes between rounds are fewer: one in place of three."""
COARSE: dict[str, Any] = {"b": 3, "lr": 1e-2}


@functools.cache
def digits() -> tuple[Split, Split, Split]:
    """Training, validation and test images, scaled to [0, 1]."""
    task, settings = Digits(), Digits.Config()
    train, val, test = (task.load(settings, name) for name in ("train", "val", "test"))
    low, high = train.inputs.min(), train.inputs.max()
    return tuple(Split((one.inputs - low) / (high - low), one.labels) for one in (train, val, test))  # type: ignore[return-value]


def perceptron(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))


def convolutional(seed: int) -> nn.Module:
    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU()]

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [*block(1, 16, 1), *block(16, 32, 2), *block(32, 32, 2)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


@functools.cache
def trained(build: Callable[[int], nn.Module], seed: int, rate: float, epochs: int = EPOCHS) -> nn.Module:
    """By SGD with momentum, L2 and a cosine schedule."""
    net, data = build(seed).train(), digits()[0]
    order = torch.Generator().manual_seed(seed)
    optimiser = Sgd([Group(list(net.parameters()), decay=1e-3)], nesterov=False)
    for epoch in range(epochs):
        for batch in torch.randperm(len(data), generator=order).split(BATCH):
            cross_entropy(net(data.inputs[batch]), data.labels[batch]).backward()
            optimiser.step(cosine(epoch, epochs, rate))
    return net.eval()


def base_perceptron(seed: int) -> nn.Module:
    return trained(perceptron, seed, 0.1)


@torch.no_grad()
def accuracy_and_nll(net: nn.Module, weights: dict[str, Tensor]) -> tuple[float, float]:
    """On test data."""
    test = digits()[2]
    with evaluating(net):
        logits = forward(net, weights, test.inputs).double()
    return float((logits.argmax(1) == test.labels).double().mean()), float(cross_entropy(logits, test.labels))


def fitted(folder: Path, net: nn.Module, build: Callable[[int], nn.Module], **config: Any) -> Any:
    """(accuracy, NLL) on test data of the means, and the facts."""
    train, val, _ = digits()
    made = Problem(net, build, train, val, (1, 8, 8), 10, 20)
    posterior, _ = fit(folder, made, {**REDUCED, "batch_size": BATCH, "predict": "mean", **config})
    return *accuracy_and_nll(net, posterior.mean()), posterior.facts()


@pytest.mark.parametrize(
    ("b", "values", "bits", "zeros"),
    [(7, (115, 150), (5.0, 5.35), (0.08, 0.13)), (4, (20, 32), (1.6, 1.9), (0.66, 0.76))],
    ids=["7", "4"],
)
def test_without_training_labels_of_a_perceptron_carry_five_bits_at_seven_and_two_at_four(b, values, bits, zeros):
    net, settings = base_perceptron(0), WeightFixingConfig(b=b)
    weights = FixingState(
        net, scope_of(net, "weights_and_biases"), settings.b, initial_sigma=lambda mu: initial_sigma(mu, settings)
    ).weights
    assert len(weights) == 26_122
    for p in settings.fractions:
        fix_round(weights, fixed_target(p, len(weights)), 1.0, settings)
    codes, counts = value_counts(weights)
    assert values[0] <= len(codes) <= values[1]
    assert bits[0] <= entropy_bits(counts) <= bits[1]
    assert zeros[0] <= float(counts[codes == 0].sum()) / len(weights) <= zeros[1]


@pytest.mark.benchmarks
@pytest.mark.parametrize(
    ("b", "loss", "values", "bits"), [(7, 0.006, (115, 150), (5.0, 5.35)), (4, 0.012, (20, 32), (1.6, 1.9))]
)
def test_a_perceptron_keeps_its_accuracy_at_the_expected_rate(tmp_path, b, loss, values, bits):
    net = base_perceptron(0)
    accuracy, _, facts = fitted(tmp_path, net, perceptron, b=b, lr=1e-3)
    assert accuracy >= accuracy_and_nll(net, weights_of(net))[0] - loss
    assert values[0] <= facts["unique"] <= values[1]
    assert bits[0] <= facts["entropy_bits"] <= bits[1]


@pytest.mark.benchmarks
def test_on_the_coarsest_grid_training_raises_the_mean_accuracy_of_three_perceptrons(tmp_path):
    with_training, without = 0.0, 0.0
    for seed in range(3):
        net = base_perceptron(seed)
        with_training += fitted(tmp_path / f"{seed}", net, perceptron, **COARSE)[0] / 3
        untrained = {"start_epochs": 0, "rest_epochs": 0}
        without += fitted(tmp_path / f"{seed}_untrained", net, perceptron, **COARSE, **untrained)[0] / 3
    assert with_training > without


@pytest.mark.benchmarks
def test_statistics_averaged_anew_improve_a_convolutional_network_on_a_coarse_grid(tmp_path):
    net = trained(convolutional, 0, 0.05, 15)
    accuracy, nll, facts = fitted(tmp_path / "anew", net, convolutional, b=4, lr=1e-3)
    _, left, _ = fitted(tmp_path / "left", net, convolutional, b=4, lr=1e-3, bn_reestimate_batches=0)
    assert facts["weights"] == 14_298
    assert accuracy >= accuracy_and_nll(net, weights_of(net))[0] - 0.01
    assert 1.4 <= facts["entropy_bits"] <= 1.75
    assert nll < left
