"""Which steps of a cycle explore, sample and are stored, at which rate; and inverse masses."""

from __future__ import annotations

import pytest
import torch
from sghmc_cases import ORACLES, perceptron
from torch import nn

from benchmark import ConfigError
from methods.hmc.config import SamplingConfig
from methods.hmc.cyclical import Cycle, starting_rate
from methods.hmc.precondition import RmsPreconditioner, inverse_masses, is_preconditioned


def test_rates_sampling_steps_and_snapshots_are_those_of_the_reference():
    given, expected = ORACLES["cyclical_a"]["inputs"], ORACLES["cyclical_a"]["expected"]
    length = given["steps"] // given["cycles"]
    cycles = {
        mode: Cycle(length, given["explore_fraction"], mode, given["snapshots_per_cycle"])
        for mode in ("held", "cosine")
    }
    steps = range(given["steps"])
    for mode, name in (("held", "lr"), ("cosine", "lr_cosine")):
        rates = [given["lr0"] * cycles[mode].factor(k % length) for k in steps]
        assert rates == pytest.approx(expected[name], abs=1e-8)
    assert [cycles["held"].samples(k % length) for k in steps] == expected["sampling"]
    stored = [start + t for start in (0, length) for t in cycles["held"].stored()]
    assert stored == expected["snapshot_steps"]


@pytest.mark.parametrize("steps", [3, 7, 10, 30, 100, 999])
@pytest.mark.parametrize("explore", [0.0, 0.07, 0.3, 0.57, 0.8, 0.9])
def test_the_first_sampling_step_is_the_first_whose_phase_reaches_explore(steps, explore):
    sampling = [t for t in range(steps) if t / steps >= explore]
    cycle = Cycle(steps, explore, "held", 1) if sampling else None
    if cycle is None:
        with pytest.raises(ConfigError, match="samples in 0 of them"):
            Cycle(steps, explore, "held", 1)
    else:
        assert cycle.first_sampling == sampling[0]
        assert cycle.stored() == (steps - 1,)


def test_more_snapshots_than_sampling_steps_are_refused_with_what_is_legal():
    with pytest.raises(ConfigError, match=r"snapshots: 3\. Legal: snapshots up to 2"):
        Cycle(10, 0.8, "held", 3)


def test_inverse_masses_are_inverse_roots_of_mean_one():
    v = torch.tensor([1e-4, 4e-4, 1e-2, 0.0])
    found = inverse_masses(v)
    inverse = 1 / (v.sqrt() + 1e-7)
    torch.testing.assert_close(found, inverse / inverse.mean())
    assert float(found.mean()) == pytest.approx(1)


def test_moments_forget_at_099_after_an_even_start():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(150, 5, generator=generator, dtype=torch.float64)
    preconditioner = RmsPreconditioner(gradients[0], torch.zeros(1, dtype=torch.float64))
    for gradient in gradients:
        preconditioner.see(10 * gradient, examples=10)
    v = (gradients[:100] ** 2).mean(0)
    for gradient in gradients[100:]:
        v = 0.99 * v + 0.01 * gradient**2
    torch.testing.assert_close(preconditioner.inverse_mass, inverse_masses(v))


def test_weights_without_a_gradient_do_not_take_the_whole_mean():
    gradient = torch.full((100,), 1e-2)
    gradient[0] = 0.0
    preconditioner = RmsPreconditioner(gradient, torch.tensor([1e-6]))
    preconditioner.see(gradient, examples=1)
    assert float(preconditioner.inverse_mass[0] / preconditioner.inverse_mass[1]) == pytest.approx(10, rel=1e-3)


def test_auto_gives_transformers_lower_rates_and_masses():
    transformer = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
    config = SamplingConfig(sampler="sghmc")
    assert (starting_rate(transformer, config), is_preconditioned(transformer, config)) == (0.01, True)
    assert (starting_rate(perceptron(), config), is_preconditioned(perceptron(), config)) == (0.1, False)
    asked = SamplingConfig(sampler="sghmc", lr=0.3, precondition="none")
    assert (starting_rate(transformer, asked), is_preconditioned(transformer, asked)) == (0.3, False)


def test_masses_without_exploring_are_refused():
    with pytest.raises(ConfigError, match="explore: 0"):
        is_preconditioned(perceptron(), SamplingConfig(sampler="sghmc", precondition="rmsprop", explore=0.0))
