"""Components in forward passes: one per step, one per example, and the gradients of both."""

from __future__ import annotations

import pytest
import torch
from ensemble_cases import LAYERS, double, factors, network, oracle
from small_problems import split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from benchmark import forward, weights_of
from methods.parameter_sharing_ensemble.assignment import PerBatch, PerExample
from methods.parameter_sharing_ensemble.factors import Factors, write_component


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("case", oracle("pse_forward"), ids=lambda case: case["id"])
def test_outputs_of_components_equal_the_oracle(case):
    given = {key: double(value) for key, value in case["inputs"].items()}
    weights, made = {"w": given["W"]}, Factors({"w": given["L"]}, {"w": given["R"]})
    chosen = torch.tensor(case["inputs"]["component"])
    assignment = PerExample(weights, made, seeded())
    assignment._rule.chosen = chosen
    found = linear(given["x"], assignment.weights()["w"], given["b"])
    assert (found - double(case["expected"]["out"])).abs().max() < 1e-9
    out = {"w": torch.empty_like(given["W"])}
    for row, c in enumerate(chosen.tolist()):
        write_component(out, weights, made, c)
        alone = linear(given["x"][row], out["w"], given["b"])
        assert (alone - double(case["expected"]["out"])[row]).abs().max() < 1e-9


def multiplied(weights: dict[str, Tensor], made: Factors, c: int) -> dict[str, Tensor]:
    """W_c with its graph."""
    return {name: w * (made.left[name][c] @ made.right[name][c]).view_as(w) for name, w in weights.items()}


def leaves_of(net: nn.Module, rank: int) -> tuple[dict[str, Tensor], Factors, dict[str, Tensor]]:
    """W, factors, and the rest of a float64 network."""
    own = {name: tensor.clone() for name, tensor in weights_of(net).items()}
    weights = {name: own[name].requires_grad_() for name in LAYERS}
    made = factors({name: own[name].detach() for name in LAYERS}, rank=rank)
    for tensor in made.tensors():
        tensor.requires_grad_()
    return weights, made, own


@pytest.mark.parametrize("rank", [1, 2])
def test_an_example_of_its_own_component_is_as_in_a_loop_over_components(rank):
    net = network().double()
    weights, made, own = leaves_of(net, rank)
    data = split(9)
    x = data.inputs.double().requires_grad_()
    assignment = PerExample(weights, made, seeded())
    assignment.begin()
    assignment.see(9)
    chosen = assignment._rule.chosen
    assert len(chosen.unique()) > 1
    leaves = [x, *weights.values(), *made.tensors()]

    logits = forward(net, {**own, **assignment.weights()}, x)
    found = torch.autograd.grad(cross_entropy(logits, data.labels), leaves)
    looped = torch.zeros_like(logits)
    for c in range(made.components):
        of_c = (chosen == c).nonzero()[:, 0]
        looped = looped.index_add(0, of_c, forward(net, {**own, **multiplied(weights, made, c)}, x[of_c]))
    expected = torch.autograd.grad(cross_entropy(looped, data.labels), leaves)

    assert (logits - looped).abs().max() < 1e-12
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 1e-12
    assert not assignment.fallbacks()


def test_gradients_of_one_component_per_step_are_those_of_autograd_however_the_batch_is_split():
    net = network().double()
    weights, made, own = leaves_of(net, rank=2)
    data = split(20)
    x = data.inputs.double()
    assignment = PerBatch(weights, made, seeded())
    assignment.begin()
    c = assignment._component
    loss = cross_entropy(forward(net, {**own, **multiplied(weights, made, c)}, x), data.labels)
    leaves = [*weights.values(), *made.tensors()]
    expected = torch.autograd.grad(loss, leaves)
    for size in (20, 7):
        for part, labels in zip(x.split(size), data.labels.split(size), strict=True):
            assignment.see(len(part))
            logits = forward(net, {**own, **assignment.weights()}, part)
            (cross_entropy(logits, labels) * len(part) / 20).backward()
        assignment.pull_back()
        for leaf, target in zip(leaves, expected, strict=True):
            assert (leaf.grad - target).abs().max() < 1e-12
            leaf.grad = None
        for leaf in assignment.leaves():
            leaf.grad = None
    others = [index for index in range(made.components) if index != c]
    assert not any(target[others].any() for target in expected[len(weights) :])


def test_components_are_uniform_and_do_not_depend_on_how_a_batch_is_split():
    weights = {"w": torch.zeros(2, 2)}
    made = factors(weights, components=4)
    per_batch = PerBatch(weights, made, seeded())
    counts = torch.zeros(4)
    for _ in range(800):
        per_batch.begin()
        counts[per_batch._component] += 1
    assert (counts - 200).abs().max() < 5 * (800 * 0.25 * 0.75) ** 0.5

    def seen(sizes: list[int]) -> Tensor:
        assignment, parts = PerExample(weights, made, seeded()), []
        for _ in range(2):
            assignment.begin()
            for size in sizes:
                assignment.see(size)
                parts.append(assignment._rule.chosen)
        return torch.cat(parts)

    assert torch.equal(seen([64]), seen([7, 32, 25]))
    assert len(seen([64]).unique()) == 4


def test_a_layer_without_a_formula_sees_one_component_and_is_counted():
    net = nn.ConvTranspose2d(1, 2, 3).double()
    weights = {"weight": net.weight.detach().clone()}
    made = factors(weights)
    assignment = PerExample(weights, made, seeded())
    assignment.begin()
    assignment.see(4)
    x = split(4).inputs.double()
    found = forward(net, {**assignment.weights(), "bias": net.bias}, x)
    alone = forward(net, {**multiplied(weights, made, int(assignment._rule.common)), "bias": net.bias}, x)
    assert (found - alone).abs().max() < 1e-12
    assert assignment.fallbacks() == {"conv_transpose2d": 1}


def test_windows_of_an_image_are_not_taken_for_examples():
    weights = {"w": torch.randn(3, 5)}
    assignment = PerExample(weights, factors(weights), seeded())
    assignment.begin()
    assignment.see(4)
    linear(torch.randn(8, 5), assignment.weights()["w"])
    assert assignment.fallbacks() == {"linear": 1}


@pytest.mark.parametrize("kind", [PerBatch, PerExample])
def test_half_precision_keeps_factors_and_their_gradients_in_single_precision(kind):
    net = network()
    own = {name: tensor.clone() for name, tensor in weights_of(net).items()}
    weights = {name: own[name].requires_grad_() for name in LAYERS}
    made = factors({name: own[name].detach() for name in LAYERS})
    for tensor in made.tensors():
        tensor.requires_grad_()
    data = split(40)
    gradients = {}
    for enabled in (False, True):
        assignment = kind(weights, made, seeded())
        assignment.begin()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assignment.see(40)
            logits = forward(net, {**own, **assignment.weights()}, data.inputs)
            loss = cross_entropy(logits, data.labels)
        assert logits.dtype == (torch.bfloat16 if enabled else torch.float32)
        loss.backward()
        assignment.pull_back()
        gradients[enabled] = torch.cat([leaf.grad.flatten() for leaf in (*weights.values(), *made.tensors())])
        for leaf in (*weights.values(), *made.tensors()):
            assert leaf.grad.dtype == torch.float32
            leaf.grad = None
    error = (gradients[True] - gradients[False]).norm() / gradients[False].norm()
    assert 0 < error < 0.02  # bf16 has 8 significant bits
