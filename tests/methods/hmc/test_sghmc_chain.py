"""Whole runs of stochastic gradient sampling: the target, what is stored, stopping anywhere, and failing cycles."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from sghmc_cases import Perceptron, network_at, normed, perceptron, problem, sample, scales_of
from small_problems import history, split
from torch import nn
from torch.nn.functional import cross_entropy

from benchmark import ConfigError, Diverged, Split
from benchmark.errors import Interrupted
from methods.hmc.cyclical import Cycle
from methods.hmc.integrators import Baoa
from methods.hmc.stochastic_chain import StochasticChain
from methods.hmc.stochastic_target import StochasticTarget

FAILS_TWICE = 12.0
"""A rate at which `Explosive` explodes, and at half of it, and not at a quarter."""


def same(one, other) -> None:
    """Two results are equal, bit for bit."""
    assert torch.equal(one.states, other.states)
    assert torch.equal(one.log_posterior, other.log_posterior)
    assert one.buffers.keys() == other.buffers.keys()
    assert all(torch.equal(buffer, other.buffers[name]) for name, buffer in one.buffers.items())
    assert one.facts == other.facts


def interrupted(folder, *args, **settings):
    """The same run, stopped at every step and started anew in a fresh context."""
    for _ in range(500):
        stops = iter([False, False, True])
        try:
            return sample(
                folder,
                *args,
                context={"stop_requested": lambda stops=stops: next(stops, True), "checkpoint_seconds": 1e9},
                **settings,
            )
        except Interrupted:
            continue
    raise AssertionError("the run never ended")


def test_gradient_and_log_posterior_are_those_of_all_data_and_the_prior():
    network, data = perceptron().double(), split(45)
    scales = {**scales_of(network, 0.5), "head.bias": 2.0}
    target = StochasticTarget(network, scales, data, batch_size=20, micro_batch=7)
    doubled = (data.inputs.double(), data.labels)
    loss = target.backward(*doubled)

    def minus_log_posterior() -> torch.Tensor:
        prior = sum((p / scales[name]).square().sum() for name, p in network.named_parameters()) / 2
        return cross_entropy(network(doubled[0]), doubled[1], reduction="sum") + prior

    minus_log_posterior().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(target.gradient.views[name], parameter.grad)
    assert float(loss) == pytest.approx(float(cross_entropy(network(doubled[0]), doubled[1]).detach()))
    half = StochasticTarget(perceptron(), scales, data, batch_size=20)
    assert half.log_posterior() == pytest.approx(-float(minus_log_posterior().detach()), rel=1e-6)


def test_a_batch_gives_an_unbiased_gradient():
    data, network = split(40), perceptron()
    target = StochasticTarget(network, scales_of(network), data, batch_size=20)
    target.backward(data.inputs, data.labels)
    whole = target.gradient.flat.clone()
    halves = []
    for part in (slice(0, 20), slice(20, 40)):
        target.backward(data.inputs[part], data.labels[part])
        halves.append(target.gradient.flat.clone())
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-4, atol=1e-4)


def test_scales_of_other_parameters_are_refused():
    with pytest.raises(ValueError, match=r"'head\.bias'"):
        StochasticTarget(
            perceptron(), {"hidden.weight": 1.0, "hidden.bias": 1, "head.weight": 1}, split(30), batch_size=20
        )


def test_a_run_gives_every_chains_states_and_leaves_the_network_alone(tmp_path):
    made = problem(normed)
    made.network.train()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    result = sample(tmp_path, made, chains=2)
    assert result.states.shape == (2, 4, sum(p.numel() for p in made.network.parameters()))
    assert result.states.isfinite().all()
    assert result.log_posterior.shape == (2, 4)
    assert len({float(value) for value in result.log_posterior.flatten()}) == 8
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    assert all(module.training for module in made.network.modules())
    assert all(math.isfinite(value) for value in result.facts.values() if not isinstance(value, str))
    assert result.facts["gradients"] == 2 * 2 * 5 * 3
    assert result.facts["lr"] == 0.02
    snapshots = history(tmp_path, "snapshot")
    assert [(s["chain"], s["cycle"], s["snapshot"]) for s in snapshots] == [
        (chain, cycle, number) for chain in range(2) for cycle in range(2) for number in range(2)
    ]
    assert [s["log_posterior"] for s in snapshots] == result.log_posterior.flatten().tolist()
    assert [record["epoch"] for record in history(tmp_path) if "epoch" in record] == [1, 2, 3, 4, 5] * 4


def test_weights_without_data_follow_the_prior(tmp_path):
    made = problem()
    blank = replace(made, train=Split(torch.zeros(60, 1, 6, 6), made.train.labels))
    settings = {"cycles": 4, "cycle_epochs": 60, "explore": 0.0, "snapshots": 10, "lr": 0.6}
    result = sample(tmp_path, blank, scales=scales_of(made.network, 0.5), init="random", **settings)
    unused = result.states[0, 10:, : 8 * 36]  # weights that only ever see zeros
    assert float(unused.var() / 0.25) == pytest.approx(1, abs=0.05)
    assert result.facts["kinetic_temperature"] == pytest.approx(1, abs=0.15)
    assert result.facts["configurational_temperature"] == pytest.approx(1, abs=0.15)


def test_log_posteriors_and_statistics_are_those_of_the_stored_states(tmp_path):
    made = problem(normed)
    result = sample(tmp_path, made, temperature=0.5, scales=scales_of(made.network, 0.7))
    assert set(result.buffers) == {"norm.running_mean", "norm.running_var"}
    seen = set()
    for state in range(4):
        network = network_at(result, normed(), 0, state)
        with torch.no_grad():
            ce = cross_entropy(network(made.train.inputs), made.train.labels, reduction="sum")
            prior = sum((p / 0.7).square().sum() for p in network.parameters()) / 2
            channels = network.conv(made.train.inputs).mean((0, 2, 3))
        assert float(result.log_posterior[0, state]) == pytest.approx(-2 * float(ce + prior), rel=1e-5)
        torch.testing.assert_close(result.buffers["norm.running_mean"][0, state], channels, atol=1e-5, rtol=1e-4)
        seen.add(float(channels[0]))
    assert len(seen) == 4


@pytest.mark.parametrize("make", [perceptron, normed])
@pytest.mark.parametrize("settings", [{}, {"precondition": "rmsprop"}, {"integrator": "sghmc", "init": "random"}])
def test_a_run_stopped_again_and_again_ends_like_one_that_was_not(tmp_path, make, settings):
    settings = {"chains": 2, "cycle_epochs": 3, "snapshots": 1, **settings}
    whole = sample(tmp_path / "whole", problem(make), **settings)
    parts = interrupted(tmp_path / "parts", problem(make), **settings)
    same(whole, parts)
    assert history(tmp_path / "whole") == history(tmp_path / "parts")


def test_chains_are_repeats_of_their_own(tmp_path):
    one, two = (sample(tmp_path / str(chains), chains=chains, init="random") for chains in (1, 2))
    assert torch.equal(one.states[0], two.states[0])
    assert not torch.equal(two.states[0], two.states[1])


def test_training_augmentation_is_left_out_unless_asked_for(tmp_path):
    plain = problem()
    shifted = replace(plain, train=Split(plain.train.inputs, plain.train.labels, lambda x, _: x + 1))
    same(sample(tmp_path / "plain", plain), sample(tmp_path / "off", shifted))
    on = sample(tmp_path / "on", shifted, augment=True)
    assert not torch.equal(on.states, sample(tmp_path / "off2", shifted).states)


def test_frozen_parameters_stay_and_are_no_part_of_the_states(tmp_path):
    def half_frozen(seed: int = 0) -> nn.Module:
        network = perceptron(seed)
        network.hidden.requires_grad_(False)
        return network

    result = sample(tmp_path, problem(half_frozen))
    assert list(result.shapes) == ["head.weight", "head.bias"]
    assert result.states.shape[2] == 27


def test_masses_are_measured_while_exploring_and_stay_while_sampling(tmp_path, monkeypatch):
    from methods.hmc.precondition import RmsPreconditioner

    seen = []
    see = RmsPreconditioner.see
    monkeypatch.setattr(RmsPreconditioner, "see", lambda *args: (seen.append(1), see(*args)))
    result = sample(tmp_path, precondition="rmsprop")
    assert len(seen) == 2 * 12  # of the 15 steps of a cycle, the first 80 %
    assert result.facts["precondition"] == "rmsprop"


class Explosive(Perceptron):
    """A perceptron whose loss is not a number once its weights are large."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bad = torch.where(self.head.weight.abs().max() > 4, torch.nan, 0.0)
        return super().forward(x) + bad


def explosive(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Explosive()


def test_a_cycle_that_fails_begins_anew_from_its_start_at_half_the_rate(tmp_path):
    result = sample(tmp_path, problem(explosive), lr=FAILS_TWICE)
    restarts = history(tmp_path, "restart")
    assert [(record["cycle"], record["lr"], record["reason"]) for record in restarts] == [
        (0, 12.0, "the loss became nan"),
        (0, 6.0, "the loss became nan"),
    ]
    assert (result.facts["restarts"], result.facts["lr"]) == (2, 3.0)
    assert result.states.isfinite().all()
    assert result.log_posterior.isfinite().all()


def test_a_restart_puts_weights_motion_and_masses_back():
    network, data = perceptron(), split(40)
    target = StochasticTarget(network, scales_of(network), data, batch_size=20)
    cycle, integrator = Cycle(10, 0.8, "held", 1), Baoa(40, 0.9, 1.0)
    generator = torch.Generator().manual_seed(0)
    chain = StochasticChain(target, network, cycle, integrator, lr=0.1, preconditioned=True, generator=generator)
    chain.step(data.inputs, data.labels, 0)
    chain.begin_cycle()
    before = {name: torch.as_tensor(value).clone() for name, value in chain.state_dict()["now"].items()}
    for t in range(10):
        chain.step(data.inputs * torch.nan, data.labels, t)
    assert not target.weights.flat.isfinite().any()
    chain.restart()
    after = chain.state_dict()["now"]
    assert all(torch.equal(torch.as_tensor(after[name]), value) for name, value in before.items())
    assert chain.temperatures() is None
    assert chain.lr == 0.05
    chain.step(data.inputs, data.labels, 0)
    assert target.weights.flat.isfinite().all()


def test_a_run_with_failing_cycles_resumes_like_one_that_was_not_stopped(tmp_path):
    settings = {"lr": FAILS_TWICE, "precondition": "none"}
    same(
        sample(tmp_path / "whole", problem(explosive), **settings),
        interrupted(tmp_path / "parts", problem(explosive), **settings),
    )


def test_three_failures_in_a_row_name_the_rate_and_the_cycle(tmp_path):
    with pytest.raises(Diverged, match=r"chain 0, cycle 0 failed 3 times in a row, the last time at lr 2\.5e\+05"):
        sample(tmp_path, lr=1e6)
    assert [record["lr"] for record in history(tmp_path, "restart")] == [1e6, 5e5, 2.5e5]


def test_a_hot_sampling_stage_fails_its_cycle(tmp_path):
    with pytest.raises(Diverged, match="kinetic temperature while sampling is"):
        sample(tmp_path, lr=60.0, explore=0.0, scales=scales_of(perceptron(), 3.0), cycle_epochs=20)


def test_batches_too_small_for_batch_statistics_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"batches of 7 examples .* at least 16"):
        sample(tmp_path, problem(normed), batch_size=8)


def test_settings_that_are_not_settled_are_refused(tmp_path):
    from small_problems import context_of

    from methods.hmc.config import SamplingConfig
    from methods.hmc.stochastic import sample_stochastically

    made = problem()
    with pytest.raises(ValueError, match="settled"):
        sample_stochastically(made, context_of("hmc", tmp_path, None), SamplingConfig(), scales_of(made.network))
