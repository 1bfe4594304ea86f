"""Alignment of many samples: oracles, planted labellings, what is left unchanged, and frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from match_cases import (
    groups_and_weights,
    hidden_layers,
    network_of,
    one_hidden,
    oracle,
    perceptron,
    planted,
    tensors,
)
from torch import Tensor

from benchmark import ConfigError, evaluating, forward
from methods.symmetry.align import Aligned, align
from methods.symmetry.choices import Reference
from methods.symmetry.errors import FrameError
from methods.symmetry.frames import frame_of, require_one_frame
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.match import Matching
from methods.symmetry.matched import apply
from methods.symmetry.network_samples import NetworkSamples
from methods.symmetry.one_group import OneGroupSamples
from methods.symmetry.stack import stacked
from methods.symmetry.transpositions import transpositions

MODES = ("weight/first", "weight/iter_mean", "cosine_fc1/first", "cosine_fc1/unaligned_mean")


def sum_of_std(samples: dict[str, Tensor]) -> float:
    return sum(float(tensor.std(0).sum()) for tensor in samples.values())


def distance_to_mean(samples: dict[str, Tensor]) -> float:
    return sum(float((tensor.double() - tensor.double().mean(0)).square().sum()) for tensor in samples.values())


def relabelled(
    groups: PermutationGroups, weights: dict[str, Tensor], count: int, noise: float
) -> list[dict[str, Tensor]]:
    """Noisy copies of the weights, each in a labelling of its own."""
    return [planted(groups, weights, noise, seed)[1] for seed in range(count)]


@pytest.mark.parametrize("case", oracle("compact_representation"), ids=lambda case: case["id"])
@pytest.mark.parametrize("mode", MODES)
def test_small_networks_are_aligned_as_in_the_oracle(case: dict[str, Any], mode: str):
    nets = [tensors(net) for net in case["inputs"]["nets"]]
    method, reference = mode.split("/")
    found = align(one_hidden(5), nets, reference=reference, matching=Matching(method))  # type: ignore[arg-type]
    expected = case["expected"][mode]
    assert [match.permutations["P"].tolist() for match in found.matches] == expected["perms"]
    assert sum_of_std(found.samples) == pytest.approx(expected["sum_std"], abs=1e-5)
    assert found.trace[-1] == pytest.approx(expected["objective_J"], abs=1e-5)
    assert found.trace[-1] == pytest.approx(distance_to_mean(found.samples), rel=1e-12)
    if "not_counts" in expected:
        assert [transpositions(match.permutations["P"]) for match in found.matches] == expected["not_counts"]


@pytest.mark.parametrize("case", oracle("compact_representation"), ids=lambda case: case["id"])
def test_samples_of_the_oracle_are_far_apart_before_alignment(case: dict[str, Any]):
    samples = stacked([tensors(net) for net in case["inputs"]["nets"]])
    assert sum_of_std(samples) == pytest.approx(case["expected"]["unaligned"]["sum_std"], abs=1e-5)
    assert distance_to_mean(samples) == pytest.approx(case["expected"]["unaligned"]["objective_J"], abs=1e-5)


@pytest.mark.parametrize("count", [20, 60])
@pytest.mark.parametrize("widths", [(4, 9, 3), (4, 7, 6, 3)])
def test_the_distance_to_the_mean_never_rises_and_is_that_of_the_samples(count: int, widths: tuple[int, ...]):
    groups = hidden_layers(*widths[1:-1])
    samples = [perceptron(seed, *widths) for seed in range(count)]
    found = align(groups, samples, matching=Matching(restarts=1))
    assert found.sweeps >= 2
    assert all(after <= before for before, after in zip(found.trace, found.trace[1:], strict=False))
    assert found.trace[-1] == pytest.approx(distance_to_mean(found.samples), rel=1e-9)
    assert found.trace[0] < distance_to_mean(stacked(samples))


@pytest.mark.parametrize("count", [8, 60])
def test_one_hidden_layer_at_once_is_as_one_after_the_other(count: int):
    groups, scales = hidden_layers(9), {"layer0.weight": 1.0, "layer0.bias": 2.0, "layer1.weight": 0.5}
    stack = stacked([perceptron(seed, 4, 9, 3) for seed in range(count)])
    how = Matching(scales=scales | {"layer1.bias": 1.0})
    both = OneGroupSamples(groups, stack, how), NetworkSamples(groups, stack, how)
    for state in both:
        state.match_to_sample(0)
    for _ in range(3):
        first, second = (state.matches() for state in both)
        assert all(
            torch.equal(a.permutations["P_0"], b.permutations["P_0"]) for a, b in zip(first, second, strict=True)
        )
        assert both[0].spread() == pytest.approx(both[1].spread(), rel=1e-9)
        assert both[0].sweep(others=count <= 50) == both[1].sweep(others=count <= 50)


def test_planted_labellings_of_a_residual_network_become_one():
    groups, weights = groups_and_weights("wrn-10-1")
    samples = relabelled(groups, weights, 3, 0.2)
    found = align(groups, samples, matching=Matching(restarts=1))
    for match, own in zip(found.matches, range(3), strict=True):
        permutations, _ = planted(groups, weights, 0.0, own)
        for group, perm in permutations.items():
            # All are labelled as the first sample is.
            first = planted(groups, weights, 0.0, 0)[0][group]
            assert torch.equal(perm[match.permutations[group]], first)


def test_alignment_of_planted_samples_finds_the_mean_that_they_came_from():
    groups = hidden_layers(16)
    mean = perceptron(0, 64, 16, 10)
    found = align(groups, relabelled(groups, mean, 100, 1.0))
    (target,) = align(groups, [mean, found.reference], reference="first").matches[1:]
    there = apply(groups, target, found.reference)
    error = sum(float((there[name] - mean[name]).square().sum()) for name in mean if name != "layer1.bias")
    assert (error / sum(float(tensor.square().sum()) for tensor in mean.values())) ** 0.5 <= 0.11


def test_aligning_draws_of_a_prior_makes_up_structure_as_known():
    source = torch.Generator().manual_seed(0)
    shapes = {"W1": (16, 64), "b1": (16,), "W2": (10, 16), "b2": (10,)}
    draws = {name: torch.randn(600, *shape, generator=source) for name, shape in shapes.items()}

    def rms(mean: dict[str, Tensor]) -> float:
        values = torch.cat([tensor.flatten() for tensor in mean.values()])
        return float(values.square().mean().sqrt())

    assert rms({name: tensor.mean(0) for name, tensor in draws.items()}) < 0.06
    assert 0.15 <= rms(align(one_hidden(16), draws).reference) <= 0.26


def test_function_and_prior_of_every_sample_stay_as_they_were():
    network = network_of("deit-micro").double()
    groups, _ = groups_and_weights("deit-micro")
    samples = []
    for seed in range(3):
        _, weights = groups_and_weights("deit-micro", seed)
        samples.append({name: tensor.double() for name, tensor in weights.items()})
    found = align(groups, samples, matching=Matching(restarts=1), sweeps=3)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad(), evaluating(network):
        for index, sample in enumerate(samples):
            there = {name: tensor[index] for name, tensor in found.samples.items()}
            assert torch.allclose(forward(network, there, x), forward(network, sample, x), rtol=1e-9, atol=1e-9)
            lengths = [sum(float(tensor.square().sum()) for tensor in some.values()) for some in (there, sample)]
            assert lengths[0] == pytest.approx(lengths[1], rel=1e-9)
    assert all(after <= before for before, after in zip(found.trace, found.trace[1:], strict=False))
    assert found.sweeps >= 1


def test_samples_and_their_order_are_left_as_they_are():
    groups = hidden_layers(6)
    stack = stacked([perceptron(seed, 3, 6, 2) for seed in range(5)])
    before = {name: tensor.clone() for name, tensor in stack.items()}
    found = align(groups, stack)
    assert all(torch.equal(tensor, before[name]) for name, tensor in stack.items())
    for index, match in enumerate(found.matches):
        there = apply(groups, match, {name: tensor[index] for name, tensor in stack.items()})
        assert all(torch.equal(found.samples[name][index], tensor) for name, tensor in there.items())


@pytest.mark.parametrize("reference", ["first", "iter_mean", "unaligned_mean"])
def test_the_frame_is_that_of_the_reference(reference: Reference):
    groups = hidden_layers(6)
    samples = [perceptron(seed, 3, 6, 2) for seed in range(5)]
    found = align(groups, samples, reference=reference)
    expected = {
        "first": samples[0],
        "iter_mean": {name: tensor.mean(0) for name, tensor in found.samples.items()},
        "unaligned_mean": {name: tensor.mean(0) for name, tensor in stacked(samples).items()},
    }[reference]
    assert all(torch.allclose(found.reference[name], tensor) for name, tensor in expected.items())
    assert found.frame_id == frame_of(found.reference)
    assert (found.sweeps > 0) == (reference == "iter_mean")


def test_frames_differ_by_any_value_name_or_shape_and_not_by_order():
    weights = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    changed = {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 1.0000001])}
    others = [changed, {"a": torch.zeros(3, 2), "b": torch.ones(2)}, {"a": torch.zeros(2, 3), "c": torch.ones(2)}]
    assert frame_of(dict(reversed(weights.items()))) == frame_of(weights)
    assert len({frame_of(weights), *map(frame_of, others)}) == 4


def test_different_frames_are_not_combined():
    groups = hidden_layers(6)
    frames = [align(groups, [perceptron(seed + k, 3, 6, 2) for k in range(3)]).frame_id for seed in (0, 10)]
    require_one_frame(scores=frames[0], network=frames[0])
    with pytest.raises(FrameError, match=rf"scores {frames[0]}, mean network {frames[1]}"):
        require_one_frame(scores=frames[0], mean_network=frames[1])


def test_wrong_calls_are_refused():
    groups, one = hidden_layers(6), perceptron(0, 3, 6, 2)
    with pytest.raises(ValueError, match=r"must be 2 or more, of all tensors as many; got \[1\]"):
        align(groups, [one])
    with pytest.raises(ValueError, match="same names"):
        align(groups, [one, {"layer0.bias": one["layer0.bias"]}])
    with pytest.raises(ConfigError, match="reference 'mean' is unknown"):
        align(groups, [one, one], reference="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one hidden layer"):
        align(hidden_layers(4, 4), [perceptron(0, 3, 4, 4, 2)] * 2, matching=Matching("cosine_fc1"))


def test_constant_and_dead_units_are_aligned_without_nan():
    groups = hidden_layers(5)
    samples = [perceptron(seed, 3, 5, 2) for seed in range(4)]
    for sample in samples:
        for name, axis in (("layer0.weight", 0), ("layer0.bias", 0), ("layer1.weight", 1)):
            sample[name].index_fill_(axis, torch.tensor([1, 3]), 0.0)
    for method in ("weight", "cosine_fc1"):
        found: Aligned = align(groups, samples, matching=Matching(method))  # type: ignore[arg-type]
        assert all(bool(tensor.isfinite().all()) for tensor in found.samples.values())
        assert found.trace[-1] <= found.trace[0] < distance_to_mean(stacked(samples))
