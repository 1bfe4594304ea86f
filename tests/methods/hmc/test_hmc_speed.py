"""Cost of gradients and trajectories. Prints what it measures."""

from __future__ import annotations

import time

import pytest
import torch
from hmc_targets import digits_like, generators, scales_of, settings
from paired_timing import ratios, threads
from torch import Tensor, nn

from methods.hmc.chains import HmcChains
from methods.hmc.density import Density
from methods.hmc.pyro_backend import kernel

pytestmark = pytest.mark.benchmarks

STEPS, STEP = 50, 1e-3


def ours(density: Density, chains: int):
    """A trajectory of 50 gradients per call."""
    config = settings(burn_in=1, samples=10_000, keep=1, max_leapfrog=STEPS, step_size=STEP, jitter=0.0)
    start = 0.3 * torch.randn(chains, density.parameters, generator=torch.Generator().manual_seed(0))
    made = HmcChains(
        density, start, config, scale=1.0, generators=generators(chains), jitter=torch.Generator().manual_seed(0)
    )
    made.step()
    return made.step


def pyros(kernel_made, start: Tensor | None = None):
    """A trajectory of 50 gradients of one chain per call, by Pyro's kernel."""
    if start is not None:
        kernel_made.initial_params = {"w": start}
    kernel_made.setup(0)
    state = {"at": kernel_made.initial_params}

    def step() -> None:
        state["at"] = kernel_made.sample(state["at"])

    return step


def from_potential(density: Density):
    config = settings(sampler="pyro", kernel="hmc", step_size=STEP, trajectory=STEP * STEPS, burn_in=1, samples=1)
    return pyros(kernel(density, config, 1.0), 0.3 * torch.randn(density.parameters))


def from_model(network: nn.Module, split):
    """As Pyro's users write it: a Bayesian module with priors for weights, a plate of observations."""
    import copy

    import pyro.distributions as dist
    from pyro import plate, sample
    from pyro.infer.mcmc import HMC
    from pyro.nn import PyroSample
    from pyro.nn.module import to_pyro_module_

    bayesian = copy.deepcopy(network)
    to_pyro_module_(bayesian)
    for module in bayesian.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            setattr(module, name, PyroSample(dist.Normal(torch.zeros(value.shape), 1.0).to_event(value.dim())))

    def model() -> None:
        logits = bayesian(split.inputs)
        with plate("examples", len(split)):
            sample("labels", dist.Categorical(logits=logits), obs=split.labels)

    return pyros(HMC(model, step_size=STEP, num_steps=STEPS, adapt_step_size=False, adapt_mass_matrix=False))


@pytest.mark.parametrize("count", [1, 2])
def test_four_chains_cost_little_more_than_one_and_a_tenth_of_a_pyro_model(count: int):
    network, split = digits_like(600)
    density = Density(network, split, scales_of(network))
    with threads(count), torch.random.fork_rng():
        four, found = ratios(
            {
                "4 chains, 50 gradients each": ours(density, 4),
                "1 chain": ours(density, 1),
                "Pyro, 1 chain, this potential": from_potential(density),
                "Pyro, 1 chain, a Pyro model": from_model(network, split),
            },
            15,
        )
    print(f"  {count} threads, {1e3 * four / STEPS:.2f} ms per gradient of four chains")
    print(f"  gradients per second to Pyro's: {4 * found['Pyro, 1 chain, this potential']:.1f} x with this potential,")
    print(f"  {4 * found['Pyro, 1 chain, a Pyro model']:.1f} x with a Pyro model")
    assert 1 / found["1 chain"] < 2
    assert 4 * found["Pyro, 1 chain, this potential"] > 2.5
    assert 4 * found["Pyro, 1 chain, a Pyro model"] > 10


def test_a_gradient_of_four_chains_takes_less_than_two_milliseconds():
    network, split = digits_like(600)
    density = Density(network, split, scales_of(network))
    states = torch.randn(4, 1210)
    seconds = []
    with threads(1):
        for _ in range(200):
            start = time.perf_counter()
            density.gradient(states)
            seconds.append(time.perf_counter() - start)
    low, median = sorted(seconds)[20], sorted(seconds)[100]
    print(f"\n4 chains, 1,210 parameters, 600 examples, one thread: median {1e3 * median:.2f} ms, 10 % {1e3 * low:.2f}")
    assert low < 2e-3
