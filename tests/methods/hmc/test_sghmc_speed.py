"""Cost of a step of stochastic gradient sampling beside one of the base run's SGD. Prints what it measures."""

from __future__ import annotations

import pytest
import torch
from paired_timing import ratios, threads
from sgd_step import sgd_step
from sghmc_cases import scales_of

from benchmark import Split
from methods.finetuning.modes import only_norms_training
from methods.hmc.cyclical import Cycle
from methods.hmc.integrators import Baoa
from methods.hmc.stochastic_chain import StochasticChain
from methods.hmc.stochastic_target import StochasticTarget
from tasks.networks.catalogue import CifarResNet

pytestmark = pytest.mark.benchmarks

ROUNDS = 9


def test_a_step_costs_little_more_than_one_of_sgd():
    network = CifarResNet().build("resnet20", (1, 8, 8), 10)
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(128, 1, 8, 8, generator=generator), torch.randint(10, (128,), generator=generator)
    target = StochasticTarget(network, scales_of(network), Split(inputs, labels), batch_size=128)
    cycle, integrator = Cycle(10, 0.5, "held", 1), Baoa(128, 0.9, 1.0)
    chain = StochasticChain(target, network, cycle, integrator, lr=1e-4, preconditioned=False, generator=generator)
    masses = StochasticChain(target, network, cycle, integrator, lr=1e-4, preconditioned=True, generator=generator)
    sgd = sgd_step(network)
    with threads(1), only_norms_training(network, True):
        _, found = ratios(
            {
                "a step of SGD": lambda: sgd(inputs, labels),
                "exploring": lambda: chain.step(inputs, labels, 0),
                "sampling": lambda: chain.step(inputs, labels, 9),
                "exploring, with masses": lambda: masses.step(inputs, labels, 0),
            },
            ROUNDS,
        )
    assert found["exploring"] < 1.15
    assert found["sampling"] < 1.2
    assert found["exploring, with masses"] < 1.25
