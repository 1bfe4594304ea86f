"""R-hat, effective sample sizes, and what counts as converged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sghmc_cases import ORACLES, normed, perceptron, problem
from small_problems import split
from torch import nn

from benchmark import forward, weights_of
from methods.hmc.diagnostics import (
    Convergence,
    ess_bulk,
    ess_tail,
    fixed_inputs,
    function_values,
    rank_rhat,
    weights_rhat,
)
from tasks.networks.catalogue import SmallDeiT


def draws(chains: int, n: int, *columns: int, seed: int = 0) -> np.ndarray:
    """Independent standard Gaussian draws."""
    return np.random.default_rng(seed).normal(size=(chains, n, *columns))


def test_rhat_and_ess_are_those_of_the_reference():
    case = ORACLES["rhat_ess_mixed"]
    given, expected = np.array(case["inputs"]["draws"]), case["expected"]
    assert float(rank_rhat(given)) == pytest.approx(expected["rhat_rank"], rel=1e-5)
    assert float(ess_bulk(given)) == pytest.approx(expected["ess_bulk"], rel=1e-3)
    assert float(ess_tail(given)) == pytest.approx(expected["ess_tail"], rel=1e-3)


def test_columns_are_diagnosed_one_by_one():
    given = np.cumsum(draws(3, 40, 2, 2), axis=1)
    for statistic in (rank_rhat, ess_bulk, ess_tail):
        found = statistic(given)
        alone = [[float(statistic(given[:, :, i, j])) for j in range(2)] for i in range(2)]
        np.testing.assert_allclose(found, alone)


def test_constant_columns_and_too_few_draws_are_nan_and_stuck_chains_infinite():
    given = draws(2, 20, 3)
    given[:, :, 1] = 4.0
    given[0, :, 2], given[1, :, 2] = 0.0, 1.0
    found = rank_rhat(given)
    assert np.isfinite(found[0])
    assert np.isnan(found[1])
    assert np.isinf(found[2])
    assert np.isnan(ess_bulk(given)[1])
    assert np.isnan(rank_rhat(draws(2, 3))).all()


def test_independent_draws_converge():
    found = Convergence.of(draws(4, 200), draws(4, 200, 3, 2, seed=1))
    assert found.converged
    assert found.rhat_function < 1.05
    assert found.ess_bulk_function >= 400
    assert found.facts()["rhat_of"] == "chains"


def test_a_shifted_chain_is_flagged():
    values = draws(4, 200, 3, 2)
    values[2] += 1.0
    found = Convergence.of(draws(4, 200), values)
    assert not found.converged
    assert found.rhat_function > 1.05
    assert found.rhat_logp < 1.05


def test_strict_asks_for_a_lower_rhat():
    values = draws(4, 400, 1, 1)
    values[2] += 0.45
    loose, strict = (Convergence.of(draws(4, 400), values, strict=strict) for strict in (False, True))
    assert 1.01 < loose.rhat_function < 1.05
    assert loose.converged
    assert not strict.converged


def test_few_effective_draws_are_flagged_even_where_chains_agree():
    found = Convergence.of(draws(4, 50), draws(4, 50, 1, 1))
    assert found.rhat_function < 1.05
    assert not found.converged


def test_a_single_chain_is_compared_half_with_half_and_says_so():
    values = draws(1, 401, 2, 2)
    assert Convergence.of(draws(1, 401), values).converged
    values[:, 200:] += 1.0
    found = Convergence.of(draws(1, 401), values)
    assert not found.converged
    assert found.split_halves
    assert found.facts()["rhat_of"] == "halves of one chain"


def test_constant_outputs_are_left_out_and_counted():
    values = draws(4, 200, 2, 2)
    values[:, :, 0, 1] = -3.0
    found = Convergence.of(draws(4, 200), values, diagnosed_on="train")
    assert found.converged
    assert found.facts()["constant_outputs"] == 1
    assert found.facts()["diagnosed_on"] == "train"


def test_facts_hold_finite_numbers_only():
    facts = Convergence.of(draws(2, 3), draws(2, 3, 2, 2)).facts()
    assert facts["converged"] is False
    assert all(math.isfinite(value) for value in facts.values() if isinstance(value, float))
    assert "rhat" not in facts


def test_other_chains_than_those_of_the_log_posterior_are_refused():
    with pytest.raises(ValueError, match="same chains"):
        Convergence.of(draws(2, 10), draws(3, 10, 1, 1))


def test_rhat_of_weights_looks_at_a_random_part():
    weights = draws(2, 100, 50)
    weights[1, :, 7] += 5
    assert weights_rhat(weights) == pytest.approx(float(np.max(rank_rhat(weights))))
    picked = {weights_rhat(weights, most=10, seed=seed) > 1.5 for seed in range(8)}
    assert picked == {True, False}


def transformer(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallDeiT().build("deit-micro", (1, 6, 6), 3)


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("make", [perceptron, normed, transformer])
def test_function_values_are_the_networks_log_probabilities_under_every_state(make):
    nets = [make(seed) for seed in range(6)]
    shapes = {name: parameter.shape for name, parameter in nets[0].named_parameters()}
    states = torch.stack([torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]).view(2, 3, -1)
    named = [dict(net.named_buffers()) for net in nets]
    names = [name for name, buffer in named[0].items() if buffer.is_floating_point()]
    buffers = {name: torch.stack([own[name] for own in named]).unflatten(0, (2, 3)) for name in names}
    inputs = split(10).inputs
    found = function_values(make(9).train(), shapes, states, buffers, inputs)
    assert found.shape == (2, 3, 10, 3)
    for number, net in enumerate(nets):
        expected = forward(net.eval(), weights_of(net), inputs).log_softmax(-1)
        np.testing.assert_allclose(found[number // 3, number % 3], expected.detach(), atol=1e-5)


def test_fixed_inputs_are_spread_over_the_validation_split_or_else_the_training_split():
    inputs, name = fixed_inputs(problem(val=200))
    assert name == "val"
    assert torch.equal(inputs[0], split(200, 1).inputs[0])
    assert torch.equal(inputs[63], split(200, 1).inputs[199])
    assert len(inputs) == 64
    inputs, name = fixed_inputs(problem(val=None))
    assert name == "train"
    assert len(inputs) == 60
