"""Attention heads: matching that rotations inside of them do not disturb, and rotations that take planted ones back."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from match_cases import groups_and_weights, network_of, oracle, planted, tensors, undone
from torch import Tensor, nn

from benchmark import ConfigError, evaluating, forward, weights_of
from methods.symmetry.discover import groups_of
from methods.symmetry.groups import Attention, PermutationGroups
from methods.symmetry.heads import HeadRotations, Heads, match_heads
from methods.symmetry.matched import Match, apply
from methods.symmetry.weight_matching import match_weights

Double = dict[str, Tensor]


@pytest.fixture
def transformer() -> tuple[nn.Module, PermutationGroups, Double]:
    """deit-micro in float64, with biases that are not zero."""
    network = network_of("deit-micro").double()
    source = torch.Generator().manual_seed(5)
    weights = weights_of(network)
    for tensor in weights.values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=source, dtype=torch.float64)
    return network, groups_of(network), weights


def rotations(groups: PermutationGroups, seed: int, *, orthogonal: bool = True) -> HeadRotations:
    """Random ones for all heads."""
    source = torch.Generator().manual_seed(seed)

    def turns(attention: Attention) -> Tensor:
        drawn = torch.randn(attention.heads, attention.width, attention.width, generator=source, dtype=torch.float64)
        return torch.linalg.qr(drawn)[0] if orthogonal else torch.eye(attention.width) + 0.1 * drawn

    qk = {attention.module: turns(attention) for attention in groups.attentions}
    return HeadRotations(qk, {attention.module: turns(attention) for attention in groups.attentions})


def logits(network: nn.Module, weights: Mapping[str, Tensor]) -> Tensor:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad(), evaluating(network):
        return forward(network, weights, x)


def squares(weights: Mapping[str, Tensor]) -> float:
    return sum(float(tensor.square().sum()) for tensor in weights.values())


def test_heads_are_matched_as_in_the_oracle():
    (case,) = oracle("attention_heads")
    a, b = (
        Heads(
            torch.cat([parts["q"], parts["bq"].unsqueeze(-1)], -1),
            parts["k"],
            torch.cat([parts["v"], parts["bv"].unsqueeze(-1)], -1),
            parts["o"].transpose(1, 2),
        )
        for parts in (tensors(case["inputs"]["a"]), tensors(case["inputs"]["b"]))
    )
    found, expected = match_heads(a, b, Attention("x", "H", 3, 2), "procrustes"), case["expected"]
    assert torch.allclose(found.similarity, torch.tensor(expected["similarity"], dtype=torch.float64), atol=1e-5)
    assert found.permutation.tolist() == expected["perm"]
    assert found.value == pytest.approx(expected["objective"], abs=1e-5)
    assert torch.allclose(found.qk[0], torch.tensor(expected["rotation_qk_head0"], dtype=torch.float64), atol=1e-5)


def test_rotations_inside_heads_leave_logits_and_length_of_the_weights(transformer):
    network, groups, weights = transformer
    turned = rotations(groups, 1).rotated(groups, weights)
    assert not torch.allclose(turned["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])
    assert torch.allclose(logits(network, turned), logits(network, weights), rtol=1e-10, atol=1e-10)
    assert squares(turned) == pytest.approx(squares(weights), rel=1e-12)


def test_other_maps_that_leave_the_logits_change_the_length_of_the_weights(transformer):
    network, groups, weights = transformer
    maps = rotations(groups, 1, orthogonal=False)
    # What reads the queries needs the inverse transpose of what makes them; only for rotations is that the same.
    dual = HeadRotations(
        {path: torch.linalg.inv(turn).mT for path, turn in maps.qk.items()},
        {path: torch.linalg.inv(turn).mT for path, turn in maps.v.items()},
    )
    one, other = maps.rotated(groups, weights), dual.rotated(groups, weights)
    for attention in groups.attentions:
        for name in (attention.qkv, attention.qkv_bias):
            mixed = groups.viewed(name, one[name]).clone()
            mixed[1] = groups.viewed(name, other[name])[1]
            one[name] = mixed.reshape(one[name].shape)
        one[attention.proj] = other[attention.proj]
    assert torch.allclose(logits(network, one), logits(network, weights), rtol=1e-10, atol=1e-10)
    assert abs(squares(one) / squares(weights) - 1) > 1e-3


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_planted_permutations_and_rotations_of_a_transformer_are_taken_back(transformer, noise: float):
    network, groups, weights = transformer
    permutations, moved = planted(groups, weights, 0.0)
    moved = rotations(groups, 2).rotated(groups, moved)
    source = torch.Generator().manual_seed(3)
    noises = {
        name: noise * tensor.std(correction=0) * torch.randn(tensor.shape, generator=source, dtype=torch.float64)
        for name, tensor in moved.items()
    }
    noisy = {name: tensor + noises[name] for name, tensor in moved.items()}
    key_biases = {}
    for attention in groups.attentions:
        key_biases[attention.qkv_bias] = groups.viewed(attention.qkv_bias, noisy[attention.qkv_bias])[1]
        key_biases[attention.qkv_bias].normal_(0, 3, generator=source)
    found = match_weights(groups, weights, noisy, restarts=1)
    assert undone(found, permutations)
    there = apply(groups, found, noisy)
    assert torch.allclose(logits(network, there), logits(network, noisy), rtol=1e-9, atol=1e-9)

    def counted(name: str, difference: Tensor) -> float:
        viewed = groups.viewed(name, difference)
        return float((viewed[::2] if name in key_biases else viewed).square().sum())

    distance = sum(counted(name, there[name] - weights[name]) for name in weights)
    expected = sum(counted(name, noises[name]) for name in weights)
    assert distance <= expected * (1 + 1e-6) + 1e-18 * squares(weights)


def test_dimensions_of_heads_can_be_permuted_only(transformer):
    _, groups, weights = transformer
    permutations, moved = planted(groups, weights, 0.0)
    source = torch.Generator().manual_seed(4)
    turn = torch.eye(16, dtype=torch.float64)
    swaps = {
        attention.module: torch.stack([turn[torch.randperm(16, generator=source)] for _ in range(4)])
        for attention in groups.attentions
    }
    found = match_weights(groups, weights, HeadRotations(swaps, swaps).rotated(groups, moved), within_head="perm")
    assert undone(found, permutations)
    there = apply(groups, found, HeadRotations(swaps, swaps).rotated(groups, moved))
    assert all(torch.equal(there[name], weights[name]) for name in weights if "qkv.bias" not in name)
    plain = match_weights(groups, weights, moved, restarts=1, within_head="none")
    assert undone(plain, permutations)


def test_queries_and_keys_behind_a_norm_are_not_rotated():
    source = torch.Generator().manual_seed(0)
    a, b = (Heads(*(torch.randn(2, 3, 5, generator=source, dtype=torch.float64) for _ in range(4))) for _ in range(2))
    found = match_heads(a, b, Attention("x", "H", 2, 3, rotates_qk=False, key_bias=False), "procrustes")
    assert torch.equal(found.qk, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    products = [(found.v[0] @ b.v[j] * a.v[0]).sum() + (found.v[0] @ b.o[j] * a.o[0]).sum() for j in range(2)]
    own = int(found.permutation[0])
    traced = (a.q[0] * b.q[own]).sum() + (a.k[0] * b.k[own]).sum() + products[own]
    assert float(found.similarity[0, own]) == pytest.approx(float(traced))


def test_two_matches_with_rotations_are_one(transformer):
    _, groups, weights = transformer
    source = torch.Generator().manual_seed(0)
    first = Match(groups.random(source), 0.0, rotations=rotations(groups, 1))
    for then in (
        Match(groups.random(source), 0.0, rotations=rotations(groups, 2)),
        Match(groups.random(source), 0.0),
    ):
        sequential = apply(groups, then, apply(groups, first, weights))
        together = apply(groups, then.after(first, groups), weights)
        assert all(torch.allclose(sequential[name], together[name], atol=1e-12) for name in weights)


def test_independent_transformers_end_closer_and_each_step_gains():
    groups, a = groups_and_weights("deit-micro", 0)
    _, b = groups_and_weights("deit-micro", 1)
    found = match_weights(groups, a, b, restarts=1)
    assert min(found.gains) > 0
    there = apply(groups, found, b)
    names = [name for name in a if any(groups.axes[name])]
    reached = sum(float((a[name].double() * there[name].double()).sum()) for name in names)
    assert found.objective == pytest.approx(reached, rel=1e-5)  # float32 rotations


def test_standard_deviations_cannot_be_rotated_along(transformer):
    _, groups, weights = transformer
    with pytest.raises(ConfigError, match="within_head 'procrustes' mixes weights"):
        match_weights(groups, weights, weights, sigmas=(weights, weights))
    sigma = {name: tensor.abs() for name, tensor in weights.items()}
    permutations, moved = planted(groups, weights, 0.0)
    along = groups.permuted(sigma, permutations)
    assert undone(match_weights(groups, weights, moved, within_head="none", sigmas=(sigma, along)), permutations)
