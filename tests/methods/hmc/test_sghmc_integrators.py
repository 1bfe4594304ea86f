"""The recurrences, against numbers and against Gaussians whose law is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from sghmc_cases import ORACLES
from torch import Tensor

from methods.hmc.integrators import INTEGRATORS, Baoa, Sghmc, baoa, sghmc

SETTINGS = {"baoa": {"momentum": math.exp(-0.1), "temperature": 1.0}, "sghmc": {"momentum": 0.9, "temperature": 1.0}}
LR = 1e-2
"""With one example: eta 0.01, h 0.1; friction 1 for baoa, alpha 0.1 for sghmc."""


@dataclass
class Measured:
    """ratio: mean of sample variance / true variance. kinetic, configurational: the temperatures."""

    ratio: float
    kinetic: float
    configurational: float


def on_gaussians(name: str, *, gradient_noise: float = 0.0, inverse_mass: Tensor | None = None, **changes) -> Measured:
    """2,000 independent Gaussians of standard deviations 0.5 to 2, 6,000 steps, of which the second half counts."""
    generator = torch.Generator().manual_seed(0)
    integrator = INTEGRATORS[name](1, **{**SETTINGS[name], **changes})
    sd = torch.linspace(0.5, 2, 2000)
    w = sd * torch.randn(2000, generator=generator)
    motion = integrator.started(torch.randn(2000, generator=generator), LR)
    noise, first, second = torch.empty(2000), torch.zeros(2000), torch.zeros(2000)
    kinetic = configurational = 0.0
    for step in range(6000):
        exact = w / sd**2
        if step >= 3000:
            configurational += float(w.dot(exact))
        gradient = exact + gradient_noise * noise.normal_(generator=generator) if gradient_noise else exact
        noise.normal_(generator=generator)
        integrator.advance(w, motion, gradient, noise, lr=LR, inverse_mass=inverse_mass)
        if step >= 3000:
            first += w
            second += w * w
            kinetic += float(integrator.kinetic(motion, lr=LR, inverse_mass=inverse_mass))
    variance = (second - first**2 / 3000) / 2999
    return Measured(float((variance / sd**2).mean()), kinetic / 3000 / 2000, configurational / 3000 / 2000)


def test_recurrences_are_those_of_the_reference():
    given, expected = ORACLES["sgmcmc_a"]["inputs"], ORACLES["sgmcmc_a"]["expected"]
    tensor = {name: torch.tensor(given[name], dtype=torch.float64) for name in ("a", "theta0", "p0", "xi")}
    eta = given["lr"] / given["n_train"]
    w, m = tensor["theta0"].clone(), tensor["p0"].clone()
    x, v = tensor["theta0"].clone(), tensor["p0"] * math.sqrt(eta)
    for step, xi in enumerate(tensor["xi"]):
        baoa(w, m, tensor["a"] * w, xi, h=math.sqrt(eta), decay=1 - given["alpha"], temperature=given["temperature"])
        sghmc(x, v, tensor["a"] * x, xi, eta=eta, alpha=given["alpha"], temperature=given["temperature"])
        torch.testing.assert_close(w, w.new_tensor(expected["baoa_theta"][step]), atol=1e-7, rtol=0)
        torch.testing.assert_close(x, x.new_tensor(expected["sghmc_theta"][step]), atol=1e-7, rtol=0)
    torch.testing.assert_close(m, m.new_tensor(expected["baoa_m"]), atol=1e-7, rtol=0)
    torch.testing.assert_close(v, v.new_tensor(expected["sghmc_v"]), atol=1e-7, rtol=0)


def test_settings_of_sgd_are_those_of_the_recurrences():
    given = ORACLES["sgmcmc_a"]["inputs"]
    gradient, xi = torch.tensor([0.3, -2.0]), torch.tensor([1.0, -0.5])
    one, other = torch.tensor([[0.4, 1.0], [0.1, 0.2]]).unbind(), torch.tensor([[0.4, 1.0], [0.1, 0.2]]).unbind()
    eta = given["lr"] / given["n_train"]
    Baoa(given["n_train"], 0.9, 0.7).advance(*one, gradient, xi, lr=given["lr"])
    baoa(*other, gradient, xi, h=math.sqrt(eta), decay=0.9, temperature=0.7)
    assert torch.equal(one[0], other[0])
    Sghmc(given["n_train"], 0.9, 0.7).advance(*one, gradient, xi, lr=given["lr"])
    sghmc(*other, gradient, xi, eta=eta, alpha=1 - 0.9, temperature=0.7)
    assert torch.equal(one[0], other[0])


@pytest.mark.parametrize("name", ["baoa", "sghmc"])
def test_the_variance_of_a_gaussian_and_both_temperatures_are_right(name):
    found = on_gaussians(name)
    assert found.ratio == pytest.approx(1, abs=0.03)
    assert found.kinetic == pytest.approx(1, abs=0.03)
    assert found.configurational == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", ["baoa", "sghmc"])
def test_the_temperature_scales_the_variance(name):
    found = on_gaussians(name, temperature=0.25)
    assert found.ratio == pytest.approx(0.25, abs=0.01)
    assert found.kinetic == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("name", ["baoa", "sghmc"])
def test_a_constant_inverse_mass_leaves_the_law_as_it_is(name):
    mass = torch.linspace(2, 0.5, 2000)[torch.randperm(2000, generator=torch.Generator().manual_seed(1))]
    found = on_gaussians(name, inverse_mass=mass)
    assert found.ratio == pytest.approx(1, abs=0.03)
    assert found.kinetic == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", ["baoa", "sghmc"])
def test_gradient_noise_inflates_the_variance_and_the_kinetic_temperature_tells(name):
    found = on_gaussians(name, gradient_noise=3.0)
    assert found.ratio == pytest.approx(1.45, abs=0.1)
    assert found.kinetic > 1.2


@pytest.mark.parametrize("mass", [None, torch.tensor([0.5, 1.5])])
@pytest.mark.parametrize("name", ["baoa", "sghmc"])
def test_a_step_without_noise_is_one_at_temperature_0(name, mass):
    gradient, xi = torch.tensor([0.3, -2.0]), torch.tensor([1.0, -0.5])
    still, cold = (torch.tensor([[0.4, 1.0], [0.1, 0.2]]).unbind() for _ in range(2))
    INTEGRATORS[name](10, 0.9, 1.0).advance(*still, gradient, None, lr=0.1, inverse_mass=mass)
    INTEGRATORS[name](10, 0.9, 0.0).advance(*cold, gradient, xi, lr=0.1, inverse_mass=mass)
    torch.testing.assert_close(torch.stack(still), torch.stack(cold), atol=1e-6, rtol=0)
