"""Cost of a step of IVON against a step of SGD, in one process. Prints what it measures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ivon_cases import learner_of
from paired_timing import interleaved, threads
from sgd_step import sgd_step

from methods.finetuning.modes import only_norms_training
from methods.finetuning.step import Step
from methods.mean_field.prior import Prior
from methods.precision import Precision
from tasks.networks.catalogue import CifarResNet

pytestmark = pytest.mark.benchmarks
Run = Callable[[torch.Tensor, torch.Tensor], float]


def ivon_step(base: torch.nn.Module) -> Run:
    """The recommended step."""
    learner = learner_of(base, Prior(5e-4, 50_000), lambda t: 0.1, curvature=10.0)
    step = Step(learner, micro_batch=None, precision=Precision("fp32", torch.device("cpu")))

    def run(inputs: torch.Tensor, labels: torch.Tensor) -> float:
        with only_norms_training(base, True):
            return float(step(inputs, labels, 0))

    return run


@pytest.mark.parametrize(("name", "rounds", "most"), [("resnet20", 12, 1.1), ("resnet18", 6, 1.25)])
def test_a_step_costs_little_more_than_one_of_sgd(name, rounds, most):
    """The target, 1.1, is stated for the published ResNet-20. IVON takes resnet18's 11 million weights through memory
    more often than SGD does, which shows on a CPU with two cores."""
    torch.manual_seed(0)
    base = CifarResNet().build(name, (3, 32, 32), 10)
    inputs, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    plain, noisy = sgd_step(base), ivon_step(base)
    with threads(2):
        _, ratio = interleaved(lambda: plain(inputs, labels), lambda: noisy(inputs, labels), rounds=rounds)
    print(f"training step, {name}, 128 x 3 x 32 x 32: IVON {ratio:.3f} times SGD")
    assert ratio <= most
