"""Factors of the components, and the L2 term with its gradients by hand."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from ensemble_cases import LAYERS, double, factors, network, oracle
from torch import Tensor

from benchmark import weights_of
from methods.finetuning.select import only_layers, select
from methods.parameter_sharing_ensemble.factors import (
    Factors,
    mean_factor,
    moments,
    products,
    rows,
    spread_of,
    write_component,
)
from methods.parameter_sharing_ensemble.prior import _any_rank, add_prior_gradients, l2_term, prior_gradients


@pytest.mark.parametrize("case", oracle("pse_init"), ids=lambda case: case["id"])
def test_moments_of_the_entries_equal_the_oracle(case):
    mean, deviation = moments(case["inputs"]["rank"], case["inputs"]["s"])
    assert mean == pytest.approx(case["expected"]["mean"], abs=1e-9)
    assert deviation == pytest.approx(case["expected"]["std"], abs=1e-9)


@pytest.mark.parametrize("rank", [1, 8])
def test_products_of_factors_have_mean_one_and_the_asked_spread(rank):
    many = factors({"w": torch.zeros(4, 4)}, components=40_000, rank=rank, spread=0.3)
    product = torch.bmm(many.left["w"], many.right["w"]).double()
    assert float(product.mean()) == pytest.approx(1, rel=0.01)
    assert float(product.std()) == pytest.approx(0.3, rel=0.01)


def test_factors_are_those_of_their_seed_and_differ_between_components():
    weights = {"w": torch.zeros(4, 2, 3, 3)}
    a, b, other = (Factors.deviates(weights, 3, 2, seed) for seed in (1, 1, 2))
    assert a.left["w"].shape == (3, 4, 2)
    assert a.right["w"].shape == (3, 2, 18)
    assert (a.components, a.rank) == (3, 2)
    assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))
    assert not torch.equal(a.left["w"], other.left["w"])
    assert not torch.equal(a.left["w"][0], a.left["w"][1])


def test_scaling_deviates_for_one_component_is_scaling_all_of_them():
    weights = {"w": torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))}
    deviates, ready = Factors.deviates(weights, 3, 2, 5), factors(weights, spread=0.7)
    found, expected = {"w": torch.empty(4, 2, 3)}, {"w": torch.empty(4, 2, 3)}
    write_component(found, weights, deviates, 1, spread=0.7)
    write_component(expected, weights, ready, 1)
    assert torch.equal(found["w"], expected["w"])
    by_hand = weights["w"] * (ready.left["w"][1] @ ready.right["w"][1]).view(4, 2, 3)
    assert torch.allclose(expected["w"], by_hand)


def test_mean_and_spread_of_the_components_are_those_of_all_products():
    made = factors({"w": torch.zeros(3, 4), "v": torch.zeros(5, 2)}, components=6, rank=2)
    all_products = {name: torch.bmm(made.left[name], made.right[name]) for name in made.left}
    away = []
    for name, product in all_products.items():
        assert torch.allclose(mean_factor(made.left[name], made.right[name]), product.mean(0), atol=1e-6)
        away.append((product - product.mean(0)).flatten())
    assert spread_of(made) == pytest.approx(float(torch.cat(away).square().mean().sqrt()), rel=1e-5)


def test_products_in_parts_are_the_products_in_one_piece():
    left, right = torch.randn(7, 3, 2), torch.randn(7, 2, 4)
    parts = list(products(left, right, elements=30))  # two components of 12 numbers
    assert [len(part) for _, part in parts] == [2, 2, 2, 1]
    assert torch.allclose(torch.cat([part for _, part in parts]), torch.bmm(left, right))
    assert len(list(products(left, right, elements=1))) == 7


def test_resnet50_has_the_published_number_of_extra_weights():
    with torch.device("meta"):
        net = timm.create_model("resnet50")
    names = only_layers(net, select(net, "weights", train_rest=True)).bayesian
    assert len(names) == 54
    weights = {name: net.get_parameter(name) for name in names}
    per_rank = 20 * sum(sum(rows(weight).shape) for weight in weights.values())
    assert per_rank == pytest.approx(1.65e6, rel=0.005)
    total = sum(parameter.numel() for parameter in net.parameters())
    published = {1: 27.21e6, 8: 38.76e6, 16: 51.95e6}
    assert {rank: round(total + rank * per_rank, -4) for rank in published} == published


@pytest.mark.parametrize("case", oracle("pse_prior_gradient"), ids=lambda case: case["id"])
def test_prior_gradients_equal_the_oracle(case):
    given, expected = case["inputs"], case["expected"]
    found = prior_gradients(double(given["W"]), double(given["L"]), double(given["R"]), given["lam"])
    for gradient, name in zip(found, ("grad_W", "grad_L", "grad_R"), strict=True):
        assert (gradient - double(expected[name])).abs().max() < 1e-9


def l2_of_components(weight: Tensor, left: Tensor, right: Tensor, lam: float) -> Tensor:
    return lam / (2 * len(left)) * sum(((a @ b) * weight).square().sum() for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_prior_gradients_are_those_of_autograd(rank):
    weight = torch.randn(5, 7, dtype=torch.float64)
    made = factors({"w": weight}, components=4, rank=rank)
    leaves = [weight.requires_grad_(), made.left["w"].requires_grad_(), made.right["w"].requires_grad_()]
    expected = torch.autograd.grad(l2_of_components(*leaves, lam=0.3), leaves)
    with torch.no_grad():
        for found in (prior_gradients(*leaves, 0.3), _any_rank(*leaves, 0.3 / 4)):
            for gradient, target in zip(found, expected, strict=True):
                assert gradient.shape == target.shape
                assert torch.allclose(gradient, target, rtol=1e-12, atol=1e-12)


def test_prior_gradients_are_added_to_what_the_data_left_and_the_term_is_its_formula():
    weights = {name: weights_of(network().double())[name].clone() for name in LAYERS}
    made = factors(weights)
    for tensor in (*weights.values(), *made.tensors()):
        tensor.grad = torch.ones_like(tensor)
    add_prior_gradients(weights, made, 0.2)
    total = 0.0
    for name, weight in weights.items():
        found = prior_gradients(rows(weight), made.left[name], made.right[name], 0.2)
        assert torch.equal(weight.grad, 1 + found.weight.view_as(weight))
        assert torch.equal(made.left[name].grad, 1 + found.left)
        assert torch.equal(made.right[name].grad, 1 + found.right)
        total += float(l2_of_components(rows(weight), made.left[name], made.right[name], 0.2))
    assert l2_term(weights, made, 0.2) == pytest.approx(total, rel=1e-12)
    assert math.isfinite(total)
