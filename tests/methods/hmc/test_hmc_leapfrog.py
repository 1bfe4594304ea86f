"""Trajectories against the oracle, and what the integrator promises."""

from __future__ import annotations

import pytest
import torch
from hmc_targets import Quadratic, oracle_density
from torch import Tensor

from methods.hmc.leapfrog import Proposal, leapfrog


def trajectory(step_size: float, steps: int) -> tuple[Proposal, dict]:
    density, oracle = oracle_density()
    start, momenta = (torch.tensor([oracle["inputs"][name]], dtype=torch.float64) for name in ("w0", "r0"))
    return leapfrog(density, start, density.gradient(start), momenta, step_size, steps), oracle


def test_a_trajectory_ends_where_the_oracle_ends():
    given = oracle_density()[1]["inputs"]
    found, oracle = trajectory(given["step_size"], given["leapfrog_steps"])
    expected = oracle["expected"]
    for tensor, name in ((found.states, "w_end"), (found.momenta, "r_end")):
        torch.testing.assert_close(tensor[0], torch.tensor(expected[name]).double(), rtol=0, atol=1e-6)
    assert float(found.energy_change) == pytest.approx(expected["delta_h"], abs=1e-6)
    assert float(found.evaluation.log_likelihood) == pytest.approx(expected["log_likelihood_end"], abs=1e-6)
    assert float(found.acceptance) == expected["acceptance_probability"]


def test_energy_error_is_quartered_when_the_step_is_halved():
    errors = [abs(float(trajectory(0.02 / 2**k, 48 * 2**k)[0].energy_change)) for k in range(3)]
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("mass", [None, torch.linspace(0.5, 2, 17, dtype=torch.float64)])
def test_a_trajectory_with_momenta_reversed_returns(mass: Tensor | None):
    density, _ = oracle_density()
    generator = torch.Generator().manual_seed(0)
    start, momenta = (torch.randn(3, 17, dtype=torch.float64, generator=generator) for _ in range(2))
    there = leapfrog(density, start, density.gradient(start), momenta, 0.08, 12, mass)
    back = leapfrog(density, there.states, there.evaluation, -there.momenta, 0.08, 12, mass)
    torch.testing.assert_close(back.states, start, rtol=0, atol=1e-10)
    torch.testing.assert_close(back.momenta, -momenta, rtol=0, atol=1e-10)
    torch.testing.assert_close(back.energy_change, -there.energy_change, rtol=0, atol=1e-10)


def test_masses_are_a_change_of_coordinates():
    """M^-1 = s^2 on a Gaussian of deviations s moves as unit masses do on the standard Gaussian."""
    s = torch.linspace(0.2, 3, 10, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    start, momenta = (torch.randn(2, 10, dtype=torch.float64, generator=generator) for _ in range(2))
    unit, scaled = (Quadratic(torch.zeros(10).double(), torch.diag(p)) for p in (torch.ones_like(s), s**-2))
    plain = leapfrog(unit, start, unit.gradient(start), momenta, 0.1, 9)
    other = leapfrog(scaled, start * s, scaled.gradient(start * s), momenta / s, 0.1, 9, s**2)
    torch.testing.assert_close(other.states, plain.states * s, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other.energy_change, plain.energy_change, rtol=1e-10, atol=1e-12)


def test_a_trajectory_costs_as_many_gradients_as_steps_and_changes_no_argument():
    class Counting(Quadratic):
        calls = 0

        def gradient(self, states: Tensor):
            self.calls += 1
            return super().gradient(states)

    target = Counting(torch.zeros(4), torch.eye(4))
    start, momenta = torch.ones(2, 4), torch.ones(2, 4)
    evaluation = target.gradient(start)
    leapfrog(target, start, evaluation, momenta, 0.1, 7)
    assert target.calls == 1 + 7
    assert torch.equal(start, torch.ones(2, 4))
    assert torch.equal(momenta, torch.ones(2, 4))
    assert torch.equal(evaluation.gradient, -torch.ones(2, 4))


def test_a_chain_that_leaves_the_numbers_is_told_apart_from_the_others():
    target = Quadratic(torch.zeros(3).double(), torch.eye(3).double())
    start = torch.tensor([[1.0, 1, 1], [1e200, 0, 0]], dtype=torch.float64)
    found = leapfrog(target, start, target.gradient(start), torch.zeros_like(start), 0.1, 3)
    assert found.finite.tolist() == [True, False]
    assert found.acceptance[0] > 0.9
    assert found.acceptance[1] == 0
