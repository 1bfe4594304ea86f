"""The geometry of attacks: balls, ranges, directions, random starts."""

from __future__ import annotations

import math

import pytest
import torch
from attack_cases import BLACK, SHAPE, WHITE, data
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.attacks.config import Attack
from benchmark.attacks.rules import Bounds, length, random_start, steepest, with_momentum

BLACKS, WHITES = BLACK.view(-1, 1, 1), WHITE.view(-1, 1, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def bounds(norm="linf", epsilon=0.1):
    attack = Attack(kind="pgd", norm=norm, epsilon=epsilon, step_size=epsilon)
    return Bounds(attack, data(20).inputs, BLACKS, WHITES)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["linf", "l2"]), st.floats(0.001, 2.0), st.floats(0.0, 30.0), st.integers(0, 1000))
def test_whatever_is_projected_is_in_the_ball_and_in_the_range(norm, epsilon, size, seed):
    limits = bounds(norm, epsilon)
    wild = size * torch.randn(limits.inputs.shape, generator=generator(seed))
    moved = limits.attacked(limits.project(wild))
    assert bool((moved >= BLACKS).all() and (moved <= WHITES).all())
    share = ((moved - limits.inputs) / (WHITES - BLACKS)).double().flatten(1)
    found = share.abs().amax(1) if norm == "linf" else share.norm(dim=1)
    expected = epsilon if norm == "linf" else epsilon * math.sqrt(18)
    assert float(found.max()) <= expected + 1e-6  # float32 inputs up to 3.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_inside_already_is_left_where_it_is(norm):
    limits = bounds(norm, 0.2)
    towards_middle = 0.01 * ((BLACKS + WHITES) / 2 - limits.inputs).sign()
    assert torch.equal(limits.project(towards_middle), towards_middle)
    assert torch.equal(limits.attacked(torch.zeros_like(limits.inputs)), limits.inputs)


def test_lengths_of_l2_grow_with_the_root_of_the_dimension():
    assert length(Attack(kind="pgd", norm="l2"), 0.1, data(2).inputs) == pytest.approx(0.1 * math.sqrt(18))
    assert length(Attack(kind="pgd"), 0.1, data(2).inputs) == 0.1


def test_a_direction_has_norm_one_however_small_the_gradient_and_none_without_one():
    sizes = torch.tensor([1e-200, 1e9, 0], dtype=torch.float64).view(-1, 1, 1, 1)
    slopes = sizes * torch.randn((3, *SHAPE), dtype=torch.float64, generator=generator())
    l2 = steepest(Attack(kind="bim", norm="l2"), slopes).flatten(1).norm(dim=1)
    torch.testing.assert_close(l2, torch.tensor([1.0, 1, 0], dtype=torch.float64), rtol=1e-9, atol=1e-9)
    linf = steepest(Attack(kind="bim"), slopes)
    assert linf[:2].abs().unique().tolist() == [1.0]
    assert linf[2].unique().tolist() == [0.0]


def test_momentum_adds_gradients_of_l1_norm_one():
    first, second = (torch.randn((5, *SHAPE), dtype=torch.float64, generator=generator(seed)) for seed in (1, 2))
    momentum = with_momentum(with_momentum(torch.zeros_like(first), first), 1e-30 * second)
    for row, one, two in zip(momentum, first, second, strict=True):
        torch.testing.assert_close(row, one / one.abs().sum() + two / two.abs().sum())
    assert torch.equal(with_momentum(momentum, torch.zeros_like(first)), momentum)


@pytest.mark.parametrize(("norm", "power"), [("linf", 18), ("l2", 18)])
def test_random_starts_are_uniform_in_the_ball(norm, power):
    """In a ball of dimension d, (distance / radius)^d is uniform in [0, 1]."""
    attack = Attack(kind="pgd", norm=norm, epsilon=0.5, step_size=0.5)
    start = random_start(attack, torch.Size((4000, *SHAPE)), generator()).flatten(1).double()
    assert torch.equal(start.float(), random_start(attack, torch.Size((4000, *SHAPE)), generator()).flatten(1))
    share = start.abs().amax(1) / 0.5 if norm == "linf" else start.norm(dim=1) / (0.5 * math.sqrt(18))
    assert float(share.max()) <= 1 + 1e-6
    levels = (share**power).sort().values
    uniform = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    assert float((levels - uniform).abs().max()) < 1.63 / math.sqrt(4000)  # Kolmogorov-Smirnov, 1%, seed fixed
    assert float(start.mean(dim=0).abs().max()) < 0.03  # centred: 6 standard errors
