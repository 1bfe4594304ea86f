"""Stored states as a posterior: order of draws, bytes, what a prediction averages."""

from __future__ import annotations

import pytest
import torch
from hmc_runs import normed, perceptron
from hypothesis import given
from hypothesis import strategies as st
from small_problems import bytes_of, split

from benchmark import BitReader, CorruptBitstream
from benchmark.predict import predict
from methods.hmc.posterior import ChainSamples, spread_order


def made(build=perceptron, chains: int = 2, per_chain: int = 6) -> ChainSamples:
    network = build()
    parameters = dict(network.named_parameters())
    size = sum(value.numel() for value in parameters.values())
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(chains, per_chain, size, generator=generator)
    buffers = {
        name: torch.rand(chains, per_chain, *buffer.shape, generator=generator) + 0.5
        for name, buffer in network.named_buffers()
        if buffer.is_floating_point()
    }
    return ChainSamples(states, {name: value.shape for name, value in parameters.items()}, buffers, {})


@given(st.integers(1, 200))
def test_every_beginning_of_the_order_is_spread_over_the_chain(count: int):
    order = spread_order(count)
    assert sorted(order) == list(range(count))
    for n in range(1, count + 1):
        gaps = torch.tensor([*sorted(order[:n]), count]).diff()
        assert int(gaps.max()) <= 4 * -(-count // n)


def test_draws_alternate_between_chains_and_start_over_without_randomness():
    posterior = made(chains=2, per_chain=3)
    order = spread_order(3)
    drawn = [weights["1.weight"] for weights in posterior.draws(8, torch.Generator())]
    for index, weights in enumerate(drawn):
        place = index % 6
        assert torch.equal(weights, posterior.weights(place % 2, order[place // 2])["1.weight"])
    again = [weights["1.weight"] for weights in posterior.draws(3, torch.Generator().manual_seed(9))]
    assert all(torch.equal(one, other) for one, other in zip(again, drawn, strict=False))


@pytest.mark.parametrize("asked", [1, 7, 100])
def test_a_prediction_averages_all_states_whatever_was_asked_for(asked: int):
    posterior, data = made(), split(9)
    found = predict(perceptron(), posterior, data, asked, torch.Generator())
    assert found.draws == 12
    logits = [
        torch.func.functional_call(perceptron(), posterior.weights(chain, state), data.inputs)
        for chain in range(2)
        for state in range(6)
    ]
    expected = torch.stack(logits).double().softmax(-1).mean(0)
    torch.testing.assert_close(found.log_probs.double().exp(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("build", [perceptron, normed])
def test_decoding_gives_back_every_state_with_its_own_statistics(build):
    posterior = made(build)
    data = bytes_of(posterior)
    decoded = ChainSamples.decode(BitReader(data), build(5))
    assert bytes_of(decoded) == data
    for chain in range(2):
        for state in range(6):
            one, other = posterior.weights(chain, state), decoded.weights(chain, state)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_state_takes_two_bytes_per_parameter():
    posterior = made(chains=4, per_chain=100)
    size = len(bytes_of(posterior))
    assert 2 * posterior.states.numel() <= size <= 2 * posterior.states.numel() + 400


def test_bytes_of_another_architecture_are_refused():
    data = bytes_of(made())
    with pytest.raises(CorruptBitstream, match="another architecture"):
        ChainSamples.decode(BitReader(data), normed())


def test_stacked_states_go_chain_by_chain_in_the_order_of_time():
    posterior = made()
    stacked = posterior.stacked()
    assert stacked["3.bias"].shape == (12, 3)
    assert torch.equal(stacked["3.bias"][7], posterior.weights(1, 1)["3.bias"])


def test_there_is_no_mean_network():
    assert made().mean() is None
