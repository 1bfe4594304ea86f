"""Whole fits: full batch, Pyro's and stochastic; resumed, diagnosed, refused."""

from __future__ import annotations

import contextlib
import re
from functools import partial

import pytest
import torch
from hmc_runs import STOCHASTIC, normed, perceptron, problem, run
from small_problems import bytes_of, context_of, history, told

from benchmark import BitReader, ConfigError, Diverged
from benchmark.errors import Interrupted
from methods.finetuning.statistics import reset_statistics
from methods.hmc import Hmc
from methods.hmc.chains import HmcChains


def test_the_facts_tell_how_the_chains_went(tmp_path):
    posterior = run(tmp_path)
    facts = posterior.facts()
    assert facts["sampler"] == "hmc"
    assert (facts["chains"], facts["states"], posterior.support) == (2, 8, 8)
    assert 0.1 < facts["acceptance"] <= 1
    assert facts["gradients"] > 2 * 20
    assert facts["converged"] is False, "eight states are no 200 independent ones"
    assert facts["marks"] == "not converged"
    assert re.fullmatch(
        r"R-hat [\d.]+ \(below 1\.05\), bulk ESS \d+ \(200 or more, out of reach of 8 states\)", str(facts["diagnosis"])
    )
    assert 0 <= facts["agreement_halves"] <= 1
    assert 0 <= facts["tv_halves"] <= 1
    assert (tmp_path / "figures" / "sampling.svg").is_file()
    records = history(tmp_path)
    assert [record["trajectory"] for record in records] == list(range(1, 21))
    assert {"log_posterior_0", "log_posterior_1", "acceptance", "step_size"} <= records[-1].keys()


def test_the_network_is_left_as_it_was(tmp_path):
    made = problem(normed)
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    run(tmp_path, made)
    after = made.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("given", [{}, STOCHASTIC], ids=["full batch", "stochastic"])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, given):
    facts = {"optimiser": "sgd", "l2": 5e-4}
    whole = run(tmp_path / "whole", facts=facts, **given)
    parts, attempts = None, 0
    while parts is None:
        attempts += 1
        offers = iter([False] * 3 + [True])
        stop = partial(next, offers, False)
        ctx = context_of("hmc", tmp_path / "parts", perceptron(), facts, checkpoint_seconds=0.0, stop_requested=stop)
        with contextlib.suppress(Interrupted):
            parts = run(tmp_path / "parts", facts=facts, ctx=ctx, **given)
    assert attempts > 3
    assert bytes_of(parts) == bytes_of(whole)
    assert told(parts) == told(whole)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


def test_every_state_of_a_network_with_batch_norm_has_the_statistics_of_its_own_batch(tmp_path):
    made = problem(normed)
    posterior = run(tmp_path, made)
    for chain, state in ((0, 0), (1, 3)):
        weights = posterior.weights(chain, state)
        exact = reset_statistics(made.network, weights, made.train, len(made.train), 0)
        for name, expected in exact.items():
            torch.testing.assert_close(weights[name], expected, rtol=2e-2, atol=2e-2)  # states are rounded to fp16
    assert not torch.equal(posterior.weights(0, 0)["1.running_mean"], posterior.weights(1, 0)["1.running_mean"])


def test_pyro_samples_the_same_target(tmp_path):
    posterior = run(tmp_path, sampler="pyro", burn_in=4, samples=4, keep=2)
    assert (posterior.chains, posterior.per_chain) == (2, 2)
    assert posterior.facts()["kernel"] == "nuts"
    assert torch.isfinite(posterior.states).all()


def test_stochastic_states_come_with_temperatures(tmp_path):
    posterior = run(tmp_path, problem(normed), facts={"l2": 5e-4}, **STOCHASTIC)
    facts = posterior.facts()
    assert (facts["sampler"], facts["states"]) == ("sghmc", 6)
    assert facts["prior_std"] == pytest.approx((60 * 5e-4) ** -0.5)
    assert "T_kin" in facts["diagnosis"]
    assert "T_conf" in facts["diagnosis"]


@pytest.mark.parametrize("given", [{"temperature": 0.1}, {"temperature": 2.0}, {"augment": True}])
def test_what_is_tempered_is_marked(tmp_path, given):
    posterior = run(tmp_path, facts={"l2": 5e-4}, **STOCHASTIC, **given)
    assert posterior.facts()["posterior"] == "tempered"
    assert "tempered" in str(posterior.facts()["marks"])


def test_a_single_state_is_a_run_too_and_judged_by_nothing(tmp_path):
    facts = run(tmp_path, chains=1, keep=1).facts()
    assert facts["converged"] is False
    assert "rhat" not in facts
    assert "of the halves of one chain" in facts["diagnosis"]


def test_a_chain_of_pyro_that_stands_still_is_no_sample(tmp_path):
    with pytest.raises(Diverged, match="a chain of Pyro stands still"):
        run(tmp_path, sampler="pyro", kernel="hmc", step_size=50.0, burn_in=2, samples=6, keep=6)


def test_divergences_are_counted_against_the_trajectories_after_burn_in(tmp_path, monkeypatch):
    monkeypatch.setattr(HmcChains, "divergences", property(lambda self: 2))
    with pytest.raises(Diverged, match=r"2 of 16 trajectories after burn-in diverged"):
        run(tmp_path, burn_in=40)


def test_chains_that_do_not_move_are_no_samples(tmp_path):
    with pytest.raises(Diverged, match=r"the chains are stuck: .* at step size 50"):
        run(tmp_path, step_size=50.0)


def test_without_validation_data_the_training_inputs_are_diagnosed(tmp_path):
    assert run(tmp_path, problem(val=None)).facts()["diagnosed_on"] == "train"


def test_the_network_of_the_base_run_is_needed_for_its_prior(tmp_path):
    with pytest.raises(ConfigError, match="this one has none"):
        run(tmp_path, facts={"l2": 0.0}, prior_std="map")


def test_the_posterior_type_reads_what_the_fit_wrote(tmp_path):
    posterior = run(tmp_path)
    decoded = Hmc().posterior_type().decode(BitReader(bytes_of(posterior)), perceptron(7))
    for one, other in zip(posterior.draws(8, torch.Generator()), decoded.draws(8, torch.Generator()), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
