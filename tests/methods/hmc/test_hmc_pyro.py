"""Pyro's kernels on the same target."""

from __future__ import annotations

import pytest
import torch
from hmc_targets import Quadratic, generators, oracle_density, settings
from torch import Tensor

from benchmark import ConfigError
from methods.hmc.chains import HmcChains
from methods.hmc.density import Density
from methods.hmc.pyro_backend import pyro_states


def predictive(density: Density, states: Tensor) -> Tensor:
    """Mean probability of class 1 on a grid of inputs, (25,)."""
    axis = torch.linspace(-2, 2, 5)
    x = torch.cartesian_prod(axis, axis)
    weights = density.weights(states.flatten(0, 1))
    hidden = torch.tanh(x @ weights["1.weight"].transpose(1, 2) + weights["1.bias"][:, None])
    logits = hidden @ weights["3.weight"].transpose(1, 2) + weights["3.bias"][:, None]
    return logits.softmax(-1)[..., 1].mean(0)


def test_hmc_agrees_with_nuts_in_function_space():
    density, _ = oracle_density()
    start = torch.randn(48, 17, generator=torch.Generator().manual_seed(0))
    config = settings(burn_in=60, samples=120, max_leapfrog=30)
    chains = HmcChains(density, start, config, scale=1.0, generators=generators(48), jitter=torch.Generator())
    while not chains.done:
        chains.step()
    settings_nuts = settings(sampler="pyro", burn_in=50, samples=250, kernel="nuts")
    nuts = pyro_states(density, start[:2], settings_nuts, scale=1.0, seeds=[1, 2])
    ours = chains.kept.states
    assert float((predictive(density, ours) - predictive(density, nuts)).abs().max()) < 0.03
    # 500 draws of a mean of 17 squares, each of variance near 2
    assert float(nuts.square().mean() / ours.square().mean()) == pytest.approx(1, abs=4 * (2 / 17 / 500) ** 0.5)


@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
def test_a_gaussian_is_recovered_and_global_state_stays(kernel: str):
    mean = torch.tensor([1.0, -1.0], dtype=torch.float64)
    target = Quadratic(mean, torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)))
    random_state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    config = settings(sampler="pyro", burn_in=30, samples=200, kernel=kernel)
    kept = pyro_states(target, torch.zeros(1, 2).double(), config, scale=0.75, seeds=[3])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_default_dtype() == dtype
    assert kept.shape == (1, 200, 2)
    assert kept.dtype == torch.float32
    # 200 draws with an effective size of at least 60
    assert float(((kept[0].mean(0) - mean).abs() / torch.tensor([0.5, 1.0])).max()) < 4 / 60**0.5
    assert float((kept[0].var(0) / torch.tensor([0.25, 1.0]) - 1).abs().max()) < 4 * (2 / 60) ** 0.5


def test_chains_depend_on_their_seeds_and_finished_ones_are_not_run_again():
    target = Quadratic(torch.zeros(3), torch.eye(3))
    config = settings(sampler="pyro", burn_in=5, samples=6, keep=3, kernel="hmc")
    seen: list[int] = []
    first = pyro_states(
        target, torch.zeros(2, 3), config, scale=1.0, seeds=[1, 2], after_chain=lambda chain, _: seen.append(chain)
    )
    again = pyro_states(
        target,
        torch.zeros(2, 3),
        config,
        scale=1.0,
        seeds=[99, 2],
        finished={0: first[0]},
        after_chain=lambda chain, _: seen.append(chain),
    )
    assert torch.equal(again, first)
    assert seen == [0, 1, 1]
    assert not torch.equal(first[0], first[1])


def test_many_parameters_are_refused_unless_forced():
    target = Quadratic(torch.zeros(5_001), torch.ones(5_001, 1))
    config = settings(sampler="pyro", burn_in=1, samples=1)
    with pytest.raises(ConfigError, match=r"5,001 .* force: true"):
        pyro_states(target, torch.zeros(1, 5_001), config, scale=1.0, seeds=[0])
