"""The two posteriors that many methods return, through their bytes and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.compression import BitReader, BitWriter
from benchmark.contracts import Posterior
from benchmark.errors import CorruptBitstream
from benchmark.posteriors import PointMass, WeightSamples
from benchmark.weights import weights_of


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def encoded(posterior: Posterior) -> bytes:
    out = BitWriter()
    posterior.encode(out)
    return out.finish()


def equal(one, other) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_a_point_mass_comes_back_bit_for_bit_from_its_bytes_and_the_architecture():
    point = PointMass(weights_of(network(1)))
    data = encoded(point)
    back = PointMass.decode(BitReader(data), network(2))
    assert equal(back.mean(), weights_of(network(1)))
    assert encoded(back) == data
    stored = sum(value.numel() for value in point.weights.values()) * 4
    assert stored <= len(data) <= stored + 400


def test_a_point_mass_draws_itself_and_has_a_support_of_one():
    point = PointMass(weights_of(network(1)))
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    draws = list(point.draws(3, generator))
    assert len(draws) == 3
    assert all(equal(draw, weights_of(network(1))) for draw in draws)
    assert torch.equal(generator.get_state(), before)
    assert point.support == 1


def test_a_posterior_keeps_copies_so_that_further_training_does_not_reach_it():
    net = network(1)
    point, samples = PointMass(weights_of(net)), WeightSamples([weights_of(net)])
    with torch.no_grad():
        net[3].weight.zero_()
    assert equal(point.mean(), weights_of(network(1)))
    assert equal(samples.members[0], weights_of(network(1)))


def test_samples_come_back_bit_for_bit_and_in_order():
    members = [weights_of(network(seed)) for seed in range(3)]
    back = WeightSamples.decode(BitReader(encoded(WeightSamples(members))), network(9))
    assert back.support == 3
    assert all(equal(one, other) for one, other in zip(back.members, members, strict=True))
    assert back.mean() is None


@pytest.mark.parametrize("n", [0, 2, 3, 7])
def test_samples_are_drawn_in_order_and_start_over(n):
    samples = WeightSamples([{"w": torch.full((1,), float(index))} for index in range(3)])
    drawn = [int(draw["w"]) for draw in samples.draws(n, torch.Generator())]
    assert drawn == [index % 3 for index in range(n)]


def test_an_ensemble_without_members_is_refused():
    with pytest.raises(ValueError, match="at least one member"):
        WeightSamples([])


def test_bytes_of_another_posterior_are_refused():
    with pytest.raises(CorruptBitstream):
        WeightSamples.decode(BitReader(encoded(PointMass({"w": torch.ones(2)}))), network(1))


class Generic(Posterior):
    """Defines `state` and `from_state` only."""

    def __init__(self, weights):
        self.weights = weights

    def draws(self, n, generator):
        yield from [self.weights] * n

    def state(self):
        return dict(self.weights)

    @classmethod
    def from_state(cls, state, network):
        return cls(state)


def test_a_posterior_with_named_tensors_needs_no_codec_of_its_own():
    weights = weights_of(network(1))
    assert equal(Generic.decode(BitReader(encoded(Generic(weights))), network(2)).weights, weights)


def test_a_posterior_that_cannot_be_written_says_what_to_define():
    class Silent(Posterior):
        def draws(self, n, generator):
            yield {}

    with pytest.raises(NotImplementedError, match="Silent defines neither `encode`/`decode` nor `state`/`from_state`"):
        encoded(Silent())
    assert (Silent().support, Silent().mean(), Silent().facts()) == (None, None, {})
    torch.testing.assert_close(Silent().log_probs(torch.zeros(1, 4)).exp(), torch.full((1, 4), 0.25))
