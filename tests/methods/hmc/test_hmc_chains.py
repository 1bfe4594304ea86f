"""Chains on targets whose law is known, and the promises about rejection, resuming and batching."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hmc_targets import Quadratic, digits_like, generators, oracle_density, scales_of, settings
from torch import Tensor, nn

from benchmark import Split
from benchmark.checkpoint import load_tree, save_tree
from methods.hmc.chains import HmcChains
from methods.hmc.config import SamplingConfig
from methods.hmc.density import Density, Target


def chains_of(
    target: Target, states: Tensor, config: SamplingConfig, seed: int = 0, scale: float = 1.0, only: int | None = None
) -> HmcChains:
    """only: the chain of that number, alone."""
    own, rows = generators(len(states), seed), states
    if only is not None:
        own, rows = own[only : only + 1], states[only : only + 1]
    return HmcChains(target, rows, config, scale=scale, generators=own, jitter=torch.Generator().manual_seed(seed))


def run(chains: HmcChains, trajectories: int | None = None) -> HmcChains:
    for _ in range(chains.trajectories if trajectories is None else trajectories):
        chains.step()
    return chains


def deviations(statistic: Tensor, truth: Tensor) -> Tensor:
    """How many standard errors the mean of `statistic` (C, T, ...) is from `truth`; chains are independent."""
    means = statistic.mean(1)  # (C, ...)
    return (means.mean(0) - truth).abs() / (means.std(0) / math.sqrt(len(means)))


@pytest.mark.parametrize("mass", ["unit", "diag"])
def test_mean_and_variance_of_a_gaussian_are_recovered(mass: str):
    """50 dimensions, condition number 25 of the covariance."""
    s = torch.logspace(math.log10(0.2), 0, 50, dtype=torch.float64)
    mean = torch.linspace(-2, 2, 50, dtype=torch.float64)
    config = settings(burn_in=80, discard=10, samples=150, max_leapfrog=100, mass=mass)
    chains = run(chains_of(Quadratic(mean, torch.diag(s**-2)), torch.zeros(64, 50).double(), config))
    kept = chains.kept.states.double()
    assert 0.6 < chains.acceptance < 0.95
    assert chains.divergences == 0
    assert float(deviations(kept, mean).max()) < 4
    assert float(deviations((kept - mean).square(), s**2).max()) < 4
    if mass == "diag":  # one scale for all: longer steps, fewer of them
        assert chains.leapfrog < 8


def test_conjugate_linear_regression_is_recovered_with_its_covariance():
    """y = X w + noise of deviation 0.5, prior N(0, 1): covariance (X'X / 0.25 + I)^-1, mean that times X'y / 0.25."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 6, dtype=torch.float64, generator=generator)
    X[:, 1] = X[:, 0] + 0.3 * X[:, 1]  # correlated
    y = X @ torch.randn(6, dtype=torch.float64, generator=generator) + 0.5 * torch.randn(40, generator=generator)
    precision = X.t() @ X / 0.25 + torch.eye(6)
    covariance = torch.linalg.inv(precision)
    mean = covariance @ X.t() @ y / 0.25
    start = torch.randn(64, 6, dtype=torch.float64, generator=generator)
    config = settings(burn_in=60, samples=200, max_leapfrog=100)
    kept = run(chains_of(Quadratic(mean, precision), start, config)).kept.states.double()
    centred = kept - mean
    assert float(deviations(kept, mean).max()) < 4
    assert float(deviations(centred[..., None] * centred[..., None, :], covariance).max()) < 4


def test_without_data_the_samples_follow_the_prior():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))  # one class: the likelihood is 1
    density = Density(network, Split(torch.ones(1, 1, 2, 2), torch.zeros(1).long()), {"1.weight": 0.5, "1.bias": 2.0})
    config = settings(burn_in=40, samples=100, max_leapfrog=20)
    kept = run(chains_of(density, torch.zeros(32, 5), config, scale=1.25)).kept.states.double()
    truth = torch.tensor([0.5, 0.5, 0.5, 0.5, 2.0]).double()
    assert float(deviations(kept, torch.zeros(5)).max()) < 4
    assert float(deviations(kept.square(), truth**2).max()) < 4


def test_the_temperature_scales_the_variance():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    split = Split(torch.ones(1, 1, 2, 2), torch.zeros(1).long())
    density = Density(network, split, scales_of(network), temperature=0.25)
    kept = run(chains_of(density, torch.zeros(32, 5), settings(burn_in=40, samples=80, max_leapfrog=20))).kept.states
    assert float(deviations(kept.double().square(), torch.full((5,), 0.25)).max()) < 4


def test_a_rejected_move_repeats_the_current_state():
    target = Quadratic(torch.zeros(20).double(), torch.eye(20).double())
    start = 3 * torch.ones(2, 20, dtype=torch.float64)
    config = settings(burn_in=10, samples=60, max_leapfrog=2, step_size=1.2, jitter=0.0)
    chains = run(chains_of(target, start, config))
    same = (chains.kept.states[:, 1:] == chains.kept.states[:, :-1]).all(2).t()  # (T - 1, C)
    assert torch.equal(same, chains.trace.jump[11:] == 0)
    assert 0.1 < float(same.double().mean()) < 0.9
    assert not (chains.kept.states == start[:, None].float()).all(2).any()


def test_without_acceptance_nothing_moves():
    target = Quadratic(torch.zeros(20).double(), torch.eye(20).double())
    start = torch.ones(2, 20, dtype=torch.float64)
    config = settings(burn_in=10, samples=20, max_leapfrog=30, step_size=2.5, trajectory=50.0)
    chains = run(chains_of(target, start, config))
    assert torch.equal(chains.kept.states, start.float()[:, None].expand(2, 20, 20))
    assert chains.acceptance == 0
    assert chains.jump == 0
    assert chains.divergences == 2 * 20


def test_energy_errors_that_are_no_numbers_are_divergences():
    class Cliff(Quadratic):
        def gradient(self, states: Tensor):
            found = super().gradient(states)
            return found._replace(log_likelihood=found.log_likelihood / (states[:, 0] < 1.5))  # -inf or NaN beyond

    target = Cliff(torch.zeros(3).double(), torch.eye(3).double())
    chains = run(chains_of(target, torch.zeros(4, 3).double(), settings(burn_in=10, samples=50, max_leapfrog=10)))
    assert 0 < chains.divergences < 4 * 50
    assert bool((chains.kept.states[..., 0] < 1.5).all())
    assert bool(chains.trace.log_posterior.isfinite().all())


@pytest.mark.parametrize("mass", ["unit", "diag"])
@pytest.mark.parametrize("stop", [0, 7, 14, 17, 26])
def test_interrupted_and_resumed_is_uninterrupted_to_the_last_bit(stop: int, mass: str, tmp_path: Path):
    density, _ = oracle_density()
    start = torch.randn(2, 17, generator=torch.Generator().manual_seed(0))
    config = settings(burn_in=20, discard=3, samples=9, keep=4, max_leapfrog=8, mass=mass)
    whole = run(chains_of(density, start, config))
    save_tree(tmp_path / "state", run(chains_of(density, start, config), stop).state_dict())
    resumed = chains_of(density, torch.zeros(2, 17), config, seed=7)
    resumed.load_state_dict(load_tree(tmp_path / "state"))
    run(resumed, whole.trajectories - stop)
    assert resumed.done
    assert (resumed.step_size, resumed.gradients) == (whole.step_size, whole.gradients)
    assert torch.equal(resumed.kept.states, whole.kept.states)
    for name, value in whole.trace.state_dict().items():
        assert torch.equal(resumed.trace.state_dict()[name], value), name


def test_chains_in_one_batch_are_chains_by_themselves():
    network, split = digits_like(50)
    density = Density(network, split, scales_of(network))
    start = 0.3 * torch.randn(4, 1210, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    config = settings(burn_in=4, samples=6, max_leapfrog=10, step_size=0.03)
    together = run(chains_of(density, start, config))
    assert 0.3 < together.acceptance < 1
    for chain in range(4):
        alone = run(chains_of(density, start, config, only=chain))
        torch.testing.assert_close(alone.states[0], together.states[chain], rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.trace.acceptance[:, 0], together.trace.acceptance[:, chain])


def test_data_in_parts_give_the_same_draws():
    network, split = digits_like(50)
    start = 0.3 * torch.randn(2, 1210, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    config = settings(burn_in=4, samples=6, max_leapfrog=10, step_size=0.03)
    whole, parts = (
        run(chains_of(Density(network, split, scales_of(network), data_chunk=chunk), start, config))
        for chunk in (None, 20)
    )
    torch.testing.assert_close(parts.states, whole.states, rtol=0, atol=1e-9)


def test_kept_states_are_evenly_spaced_samples():
    target = Quadratic(torch.zeros(3), torch.eye(3))
    config = {"burn_in": 6, "discard": 2, "samples": 10, "max_leapfrog": 5, "step_size": 0.3}
    every = run(chains_of(target, torch.zeros(2, 3), settings(**config))).kept.states
    four = run(chains_of(target, torch.zeros(2, 3), settings(**config, keep=4))).kept.states
    assert every.shape == (2, 10, 3)
    assert torch.equal(four, every[:, [0, 2, 5, 7]])


def test_lengths_are_capped_and_jittered_around_the_nominal_one():
    target = Quadratic(torch.zeros(3), torch.eye(3))
    given = {"burn_in": 1, "samples": 200, "step_size": 0.01, "trajectory": 0.5}
    free = run(chains_of(target, torch.zeros(1, 3), settings(**given, max_leapfrog=100)))
    assert (free.leapfrog, free.truncated) == (50, False)
    assert (int(free.trace.steps.min()), int(free.trace.steps.max())) == (40, 60)
    assert free.gradients == 1 + int(free.trace.steps.sum())
    capped = run(chains_of(target, torch.zeros(1, 3), settings(**given, max_leapfrog=30, jitter=0.0)))
    assert (capped.leapfrog, capped.truncated) == (30, True)
    assert set(capped.trace.steps.tolist()) == {30}
    assert chains_of(target, torch.zeros(1, 3), settings(**given, max_leapfrog=30), scale=2).length == 0.5
    with pytest.raises(ValueError, match="all 201 trajectories"):
        free.step()


def test_settings_that_are_not_settled_and_states_that_do_not_fit_are_refused():
    target = Quadratic(torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match="settle"):
        chains_of(target, torch.zeros(1, 3), SamplingConfig())
    with pytest.raises(ValueError, match=r"\(2, 3\); got \(2, 4\)"):
        chains_of(target, torch.zeros(2, 4), settings(burn_in=1, samples=1, max_leapfrog=1))
