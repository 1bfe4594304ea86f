"""The optimisers take the steps of torch's own, and leave a step out where they are told to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.optimisers import Adam, Group, Optimiser, Sgd, clip


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def pair(name: str, mine: nn.Module, theirs: nn.Module) -> tuple[Optimiser, torch.optim.Optimizer]:
    weights, others = list(mine.parameters()), list(theirs.parameters())
    match name:
        case "sgd":
            reference = torch.optim.SGD(others, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
            return Sgd([Group(weights, 0.01)]), reference
        case "heavy ball":
            reference = torch.optim.SGD(others, lr=0.1, momentum=0.5)
            return Sgd([Group(weights)], momentum=0.5, nesterov=False), reference
        case "adam":
            reference = torch.optim.Adam(others, lr=0.1, weight_decay=0.1, eps=1e-12)
            return Adam([Group(weights, 0.1)], eps=1e-12), reference
        case _:
            return Adam([Group(weights, 0.1)], decoupled=True), torch.optim.AdamW(others, lr=0.1, weight_decay=0.1)


@pytest.mark.parametrize("name", ["sgd", "heavy ball", "adam", "adamw"])
def test_optimisers_take_the_steps_of_torch_optim(name):
    mine, theirs = network(), network()
    own, reference = pair(name, mine, theirs)
    inputs, labels = torch.randn(10, 4, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 3
    for t in range(5):
        for net in (mine, theirs):
            nn.functional.cross_entropy(net(inputs), labels).backward()
        if t == 2:  # a step in which one weight has no gradient leaves that weight and its state alone
            mine[2].bias.grad = theirs[2].bias.grad = None
        for group in reference.param_groups:
            group["lr"] = 0.1 / (t + 1)
        reference.step()
        reference.zero_grad()
        own.step(0.1 / (t + 1))
        assert all(weight.grad is None for weight in mine.parameters())
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)  # fused and plain kernels round differently


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_step_that_found_an_infinity_changes_neither_weights_nor_state(name):
    net = network()
    own, _ = pair(name, net, network())
    inputs, labels = torch.randn(10, 4, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 3
    nn.functional.cross_entropy(net(inputs), labels).backward()
    own.step(0.1, torch.zeros(()))
    before = [weight.detach().clone() for weight in net.parameters()]
    state = repr(own.state_dict())
    nn.functional.cross_entropy(net(inputs * torch.inf), labels).backward()
    own.step(0.1, torch.ones(()))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert repr(own.state_dict()) == state


@pytest.mark.parametrize("limit", [0.01, 100.0])
def test_clipping_scales_gradients_to_the_limit_and_leaves_shorter_ones_alone(limit):
    mine, theirs = network(), network()
    for net in (mine, theirs):
        nn.functional.cross_entropy(net(torch.ones(3, 4)), torch.arange(3)).backward()
    found, expected = ([w.grad for w in net.parameters() if w.grad is not None] for net in (mine, theirs))
    length = torch.nn.utils.clip_grad_norm_(list(theirs.parameters()), limit)
    clip(found, limit)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4)  # torch adds 1e-6 to the norm
    after = torch.linalg.vector_norm(torch.stack([a.norm() for a in found]))
    assert float(after) == pytest.approx(min(limit, float(length)), rel=1e-4)
