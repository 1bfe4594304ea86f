"""The gradient of an attack's objective, against autograd through everything at once in float64."""

from __future__ import annotations

import math

import pytest
import torch
from attack_cases import Halved, Scored, data, ensemble, network
from torch import Tensor

from benchmark.attacks.gradient import (
    Victim,
    gradient,
    nll,
    nll_without_entropy,
    nll_without_mutual_information,
    score_gradient,
)
from benchmark.data import Split
from benchmark.errors import PluginError
from benchmark.posteriors import PointMass, WeightSamples
from benchmark.weights import weights_of


def explicit_nll(probs: Tensor, labels: Tensor) -> Tensor:
    """-ln of the plain mean probability of the label. probs: (S, n, K)."""
    return -probs.mean(dim=0)[torch.arange(len(labels)), labels].log()


def entropy(probs: Tensor) -> Tensor:
    return -(probs * probs.log()).sum(dim=-1)


def explicit_without_entropy(probs: Tensor, labels: Tensor) -> Tensor:
    return explicit_nll(probs, labels) - entropy(probs.mean(dim=0))


def explicit_without_mi(probs: Tensor, labels: Tensor) -> Tensor:
    return explicit_without_entropy(probs, labels) + entropy(probs).mean(dim=0)


@pytest.mark.parametrize(
    ("objective", "explicit"),
    [
        (nll, explicit_nll),
        (nll_without_entropy, explicit_without_entropy),
        (nll_without_mutual_information, explicit_without_mi),
    ],
)
@pytest.mark.parametrize("draws", [1, 5])
@pytest.mark.parametrize("kind", [WeightSamples, Halved])
def test_it_is_that_of_the_explicitly_averaged_softmax(objective, explicit, draws, kind):
    nets = [network(seed).double().eval() for seed in range(draws)]
    victim, split = ensemble(nets, kind), data()
    inputs = split.inputs.double()
    found = gradient(victim, inputs, split.labels, objective)
    leaf = inputs.clone().requires_grad_()
    temperature = 2 if kind is Halved else 1
    probs = torch.stack([(net(leaf) / temperature).softmax(dim=-1) for net in nets])
    (expected,) = torch.autograd.grad(explicit(probs, split.labels).sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_in_float32_it_agrees_to_float32_rounding():
    nets = [network(seed).eval() for seed in range(3)]
    split = data()
    found = gradient(ensemble(nets), split.inputs, split.labels, nll)
    exact = gradient(ensemble([net.double() for net in nets]), split.inputs.double(), split.labels, nll)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-6)


def test_draws_count_by_their_responsibility_and_not_equally():
    """A draw that gives the label next to nothing has no say: the gradient is not the mean of the draws' gradients."""
    sure, wrong = network(0).eval(), network(1).eval()
    split = data(1)
    with torch.no_grad():
        wrong[-1].bias[split.labels] -= 60
    both = gradient(ensemble([sure, wrong]), split.inputs, split.labels, nll)
    alone = gradient(ensemble([sure]), split.inputs, split.labels, nll)
    torch.testing.assert_close(both, alone, rtol=1e-5, atol=1e-12)


def test_a_gradient_far_below_float32_keeps_its_direction():
    """Saturated by a gap of 200 nats, the soft-max of float32 would give 0, and the attack would not move."""
    net, split = network().eval(), data(1)
    with torch.no_grad():
        net[-1].bias[split.labels] += 200
    found = gradient(ensemble([net]), split.inputs, split.labels, nll)
    assert 0 < float(found.abs().max()) < 1e-60
    exact = gradient(ensemble([net.double()]), split.inputs.double(), split.labels, nll)
    cosine = (found / found.norm() * (exact / exact.norm())).sum()
    assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_examples_do_not_see_each_other():
    nets, split = [network(seed).eval() for seed in range(2)], data(6)
    together = gradient(ensemble(nets), split.inputs, split.labels, nll_without_mutual_information)
    for i in range(6):
        alone = gradient(
            ensemble(nets), split.inputs[i : i + 1], split.labels[i : i + 1], nll_without_mutual_information
        )
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-8)


def test_the_gradient_of_an_own_score_and_the_refusal_of_one_without():
    net, split = network().eval(), data(3)
    scored = Scored(weights_of(net))
    middle = torch.tensor([0.0, 2.0]).view(-1, 1, 1)
    found = score_gradient(Victim(net, scored, [scored.weights]), split.inputs)
    torch.testing.assert_close(found.float(), 2 * (split.inputs - middle) / math.prod(split.inputs.shape[1:]))

    class Detached(Scored):
        def score(self, network, draws, inputs):
            return super().score(network, draws, inputs.detach())

    with pytest.raises(PluginError, match=r"Detached\.score is not differentiable"):
        score_gradient(Victim(net, Detached(scored.weights), [scored.weights]), split.inputs)


def test_the_inputs_keep_no_graph_and_parameters_get_no_gradient():
    net, split = network().eval(), data(3)
    point = PointMass(weights_of(net))
    gradient(Victim(net, point, [point.weights]), split.inputs, split.labels, nll)
    assert not split.inputs.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert isinstance(split, Split)
