"""Cost of a step of IVON against a step of SGD, in one process. Prints what it measures."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from ivon_cases import learner_of
from torch.nn.functional import cross_entropy

from benchmark.allocator import keep_freed_memory
from methods.finetuning.modes import only_norms_training
from methods.finetuning.precision import Precision
from methods.finetuning.step import Step
from methods.mean_field.prior import Prior
from tasks.networks.catalogue import CifarResNet

pytestmark = pytest.mark.benchmarks
Run = Callable[[torch.Tensor, torch.Tensor], float]


def sgd_step(base: torch.nn.Module) -> Run:
    """Training a copy of the base network by fused SGD: what the base run itself does."""
    net = copy.deepcopy(base).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)

    def step(inputs: torch.Tensor, labels: torch.Tensor) -> float:
        optimiser.zero_grad()
        loss = cross_entropy(net(inputs), labels)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def ivon_step(base: torch.nn.Module) -> Run:
    """The recommended step."""
    learner = learner_of(base, Prior(5e-4, 50_000), lambda t: 0.1, curvature=10.0)
    step = Step(learner, micro_batch=None, precision=Precision("fp32", torch.device("cpu")))

    def run(inputs: torch.Tensor, labels: torch.Tensor) -> float:
        with only_norms_training(base, True):
            return float(step(inputs, labels, 0))

    return run


def ratio_of(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """Median over rounds of seconds(second)/seconds(first), after one round of warm-up; the order alternates, because
    a shared machine drifts by more than the few per cent that are to be shown."""
    ratios = []
    for index in range(rounds + 1):
        seconds = {}
        for call in (first, second) if index % 2 else (second, first):
            start = time.perf_counter()
            call()
            seconds[call] = time.perf_counter() - start
        ratios.append(seconds[second] / seconds[first])
    low, middle, high = statistics.quantiles(ratios[1:], n=4, method="inclusive")
    print(f"\nratio {middle:.3f}, quartiles {low:.3f} and {high:.3f}, over {rounds} rounds")
    return middle


@pytest.mark.parametrize(("name", "rounds"), [("resnet20", 12), ("resnet18", 4)])
def test_a_step_costs_at_most_ten_percent_more_than_sgd(name, rounds):
    keep_freed_memory()  # as in every run; without it page faults drown the difference
    torch.manual_seed(0)
    base = CifarResNet().build(name, (3, 32, 32), 10)
    inputs, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    plain, noisy = sgd_step(base), ivon_step(base)
    ratio = ratio_of(lambda: plain(inputs, labels), lambda: noisy(inputs, labels), rounds=rounds)
    print(f"training step, {name}, 128 x 3 x 32 x 32: IVON {ratio:.3f} times SGD")
    assert ratio <= 1.1
