"""One training step: the pull to the values of the last iteration, clipping, Adam, and what is fixed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import small_with_token as network
from small_problems import split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import forward
from methods.finetuning.step import Step
from methods.fixed_weights.state import FixingState
from methods.precision import Precision
from methods.weight_fixing import attraction as module
from methods.weight_fixing.attraction import attraction
from methods.weight_fixing.config import WfnConfig
from methods.weight_fixing.learner import WfnLearner
from methods.weight_fixing.scope import wfn_scope


def mean_pull(w: Tensor, values: Tensor) -> Tensor:
    """As it is defined, weight by weight."""
    pulls = []
    for one in w:
        small = bool(one.abs() <= 2**-7)
        distances = [
            0 * one if small and c == 0 else (one - c).abs() / (1 if small else one.abs()) for c in values.tolist()
        ]
        distance = torch.stack(distances)
        pulls.append(((-distance / 0.05).softmax(0) * distance).sum())
    return torch.stack(pulls).mean()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 20), k=st.integers(1, 8), pairs=st.sampled_from([1, 20, 1 << 22]))
def test_the_pull_and_its_gradient_are_those_of_autograd(seed, n, k, pairs):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, generator=generator, dtype=torch.float64)
    w[::3] *= 2.0**-8
    values = (torch.randn(k, generator=generator, dtype=torch.float64) * 8).round() / 8
    leaf = w.clone().requires_grad_()
    expected = mean_pull(leaf, values)
    (slope,) = torch.autograd.grad(expected, leaf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS", pairs)
        found, gradient = attraction(w, values)
    assert torch.allclose(found, expected.detach(), rtol=1e-10)
    assert torch.allclose(gradient, slope, rtol=1e-8, atol=1e-12)


def test_weights_on_their_value_feel_no_pull():
    values = torch.tensor([0.0, 0.5, -8.0])
    pull, gradient = attraction(torch.tensor([0.5, 0.0, -8.0]), values)
    assert float(pull) < 1e-4
    assert gradient.abs().max() < 1e-3


def learner_of(net: nn.Module, **config: object) -> WfnLearner:
    settings_ = WfnConfig(**config)
    state = FixingState(net, wfn_scope(net, True), 14, code_dtype=torch.int32)
    return WfnLearner(net, state, settings_, state.mask(state.mu.views))


def train(learner: WfnLearner, steps: int = 1, micro_batch: int | None = None) -> Tensor:
    step = Step(learner, micro_batch=micro_batch, precision=Precision("fp32", torch.device("cpu")))
    data = split(32)
    for t in range(steps):
        loss = step(data.inputs, data.labels, t)
    return loss


@pytest.mark.parametrize("clip_norm", [None, 1e-3], ids=["unclipped", "clipped"])
def test_a_step_is_adam_on_the_cross_entropy_and_its_share_of_the_pull(clip_norm):
    net, values = network(), torch.tensor([0.25, -0.25, 0.0])
    learner = learner_of(net, lr=0.01, clip_norm=clip_norm, alpha=0.4)
    learner.begin_iteration(values)
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in net.named_parameters()}
    data = split(32)
    loss = cross_entropy(forward(net, {**dict(net.named_buffers()), **leaves}, data.inputs), data.labels)
    pull = mean_pull(torch.cat([leaves[name].flatten() for name in learner.state.mu.views]), values)
    (loss + (0.4 * loss / pull).detach() * pull).backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(leaves.values(), clip_norm)
    torch.optim.Adam(leaves.values(), lr=0.01).step()
    assert float(train(learner)) == pytest.approx(float(loss.detach()), rel=1e-6)
    for name, tensor in learner.weights().items():
        if name in leaves:
            assert torch.allclose(tensor, leaves[name], atol=1e-5), name  # Adam's first step is nearly the sign


def test_parts_of_a_batch_have_the_pull_of_the_whole():
    values = torch.tensor([0.25, -0.25, 0.0])
    stepped = []
    for micro_batch in (None, 7):
        learner = learner_of(network(), lr=0.01)
        learner.begin_iteration(values)
        train(learner, 3, micro_batch)
        stepped.append(learner.state.mu.flat.clone())
    assert torch.allclose(*stepped, atol=1e-5)


def test_fixed_weights_stay_bit_identical_and_the_others_move():
    learner = learner_of(network(), lr=0.01)
    weights = learner.state.weights
    train(learner, 5)
    weights.fixed[::2] = True
    learner.begin_iteration(torch.tensor([0.25]))
    before = weights.mu.clone()
    train(learner, 30)
    assert torch.equal(weights.mu[::2], before[::2])
    assert (weights.mu[1::2] != before[1::2]).all()


def test_the_pull_brings_weights_to_their_values():
    values = torch.tensor([-0.5, -0.25, -0.125, 0.0, 0.125, 0.25, 0.5, 1.0])
    pulls = []
    for alpha in (0.0, 4.0):
        learner = learner_of(network(), lr=1e-3, alpha=alpha)
        learner.begin_iteration(values)
        train(learner, 25)
        pulls.append(float(attraction(learner.state.mu.flat, values)[0]))
    assert pulls[1] < 0.8 * pulls[0]
