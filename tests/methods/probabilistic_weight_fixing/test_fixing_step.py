"""One training step: samples, gradients of sigma, the push, clipping, decay, and what is fixed."""

from __future__ import annotations

import pytest
import torch
from fixing_oracles import oracle
from hypothesis import given
from hypothesis import strategies as st
from small_problems import small_with_token as network
from small_problems import split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import forward
from methods.finetuning.select import layer_biases
from methods.finetuning.step import Step
from methods.fixed_weights.scope import scope_of
from methods.fixed_weights.state import FixingState
from methods.precision import Precision
from methods.probabilistic_weight_fixing.config import WeightFixingConfig
from methods.probabilistic_weight_fixing.learner import FixingLearner
from methods.probabilistic_weight_fixing.sampling import push, sample_into, sigma_gradient
from methods.probabilistic_weight_fixing.sigma import initial_sigma

NO_SKIP = torch.zeros(())


def learner_of(net: nn.Module, rate: float = 0.1, *, frozen: tuple[str, ...] = (), **config: object) -> FixingLearner:
    settings = WeightFixingConfig(**config)
    state = FixingState(
        net, scope_of(net, "weights_and_biases"), 7, initial_sigma=lambda mu: initial_sigma(mu, settings)
    )
    names, biases = list(state.mu.views), layer_biases(net)
    return FixingLearner(
        net,
        state,
        settings,
        rate,
        torch.Generator().manual_seed(0),
        learned=state.mask(name for name in names if name not in frozen),
        pushed=state.mask(name for name in names if settings.reg_bias or name not in biases),
    )


def step_of(learner: FixingLearner, batch: int = 32) -> None:
    data = split(batch)
    Step(learner, micro_batch=None, precision=Precision("fp32", torch.device("cpu")))(data.inputs, data.labels, 0)


def test_samples_are_those_of_the_oracle():
    (case,) = oracle("sample")
    mu, sigma, eps = (torch.tensor(case["inputs"][name]) for name in ("mu", "sigma", "eps"))
    sample_into(found := torch.empty(3), mu, sigma, eps)
    assert torch.allclose(found, torch.tensor(case["expected"]["w"]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("form", ["released", "hinge"])
def test_the_push_on_sigma_is_that_of_the_oracle(form):
    (case,) = oracle("regulariser")
    inputs = case["inputs"]
    sigma, eps = (torch.tensor(inputs[name], dtype=torch.float64) for name in ("sigma", "eps"))
    found = push(sigma, eps, form, inputs["alpha"], inputs["S"])
    assert torch.allclose(found, torch.tensor(case["expected"][form], dtype=torch.float64), rtol=1e-6, atol=0)


def test_no_regulariser_pushes_nothing():
    assert not push(torch.rand(5), torch.randn(5), "none", 1.0, 2.0).any()


@given(sigma=st.floats(2**-29, 0.1), mu=st.floats(-2, 2), eps=st.floats(-3, 3), slope=st.floats(-5, 5))
def test_the_gradient_of_sigma_is_that_of_autograd(sigma, mu, eps, slope):
    raw = torch.tensor([sigma, -sigma], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([eps, eps], dtype=torch.float64)
    (slope * (mu + noise * raw.clamp(min=2**-30))).sum().backward()
    found = sigma_gradient(torch.full((2,), slope, dtype=torch.float64), raw.detach(), noise)
    assert torch.allclose(found, raw.grad, rtol=1e-12)


class Line(nn.Module):
    """Three weights and a bias, in this flat order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def oracle_learner(case: dict) -> FixingLearner:
    inputs = case["inputs"]
    learner = learner_of(
        Line(),
        inputs["lr"],
        momentum=inputs["momentum"],
        weight_decay=inputs["weight_decay"],
        alpha=inputs["alpha"],
        reg_cutoff=inputs["S"],
        clip_norm=inputs["clip_norm"],
        decay_sigma=inputs["decay_sigma"],
    )
    weights = learner.state.weights
    weights.mu.copy_(torch.tensor(inputs["mu"]))
    weights.sigma.copy_(torch.tensor(inputs["sigma"]))
    weights.fixed.copy_(torch.tensor(inputs["fixed"]).bool())
    assert learner._pushed.int().tolist() == inputs["is_weight"]
    learner.begin_round()
    return learner


def test_a_step_with_a_fixed_weight_and_a_bias_is_that_of_the_oracle():
    (case,) = oracle("train_step")
    learner = oracle_learner(case)
    columns = zip(case["inputs"]["grad_w"], case["inputs"]["eps"], case["expected"]["steps"], strict=True)
    for gradient, eps, expected in columns:
        learner.begin()
        learner._eps.copy_(torch.tensor(eps))
        learner._sample.grad = torch.tensor(gradient)
        learner.update(0, NO_SKIP)
        for found, name in ((learner.state.weights.mu, "mu"), (learner.state.weights.sigma, "sigma")):
            assert torch.allclose(found, torch.tensor(expected[name]), rtol=1e-5, atol=1e-8), name
    fixed = learner.state.weights.fixed
    assert learner.state.weights.mu[fixed].equal(torch.tensor(case["inputs"]["mu"])[fixed])


def reference_steps(learner: FixingLearner, gradients: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The step of the method, written down in float64; (mu, sigma) after the last."""
    config, weights = learner._config, learner.state.weights
    mu, sigma = weights.mu.double().clone(), weights.sigma.double().clone()
    free, pushed = (~weights.fixed).double(), learner._pushed.double()
    v_mu, v_sigma = torch.zeros_like(mu), torch.zeros_like(sigma)
    for g, eps in zip(gradients.double(), noise.double(), strict=True):
        g_mu = g * free
        g_sigma = g * eps * (sigma > 2**-30)
        g_sigma -= config.alpha * (config.reg_cutoff - sigma).clamp(min=0) * eps.abs() * pushed
        g_sigma *= free
        c = min(1.0, config.clip_norm / (float(torch.cat([g_mu, g_sigma]).norm()) + 1e-6))
        v_mu = config.momentum * v_mu + c * g_mu + config.weight_decay * mu * free
        v_sigma = config.momentum * v_sigma + c * g_sigma
        if config.decay_sigma:
            v_sigma += config.weight_decay * sigma * free
        mu, sigma = mu - learner._rate * v_mu, sigma - learner._rate * v_sigma
    return mu, sigma


@pytest.mark.parametrize("decay_sigma", [False, True])
def test_twenty_clipped_steps_with_momentum_and_decay_follow_the_formula(decay_sigma):
    config = {"alpha": 0.1, "weight_decay": 0.02, "clip_norm": 0.5, "decay_sigma": decay_sigma}
    learner = learner_of(Line(), 0.05, **config)
    learner.state.weights.fixed[1] = True
    learner.begin_round()
    g = torch.Generator().manual_seed(1)
    gradients, noise = torch.randn(20, 4, generator=g), torch.randn(20, 4, generator=g)
    expected = reference_steps(learner, gradients, noise)
    for gradient, eps in zip(gradients, noise, strict=True):
        learner._eps.copy_(eps)
        learner._sample.grad = gradient.clone()
        learner.update(0, NO_SKIP)
    assert torch.allclose(learner.state.weights.mu.double(), expected[0], rtol=1e-5, atol=1e-7)
    assert torch.allclose(learner.state.weights.sigma.double(), expected[1], rtol=1e-5, atol=1e-7)


def test_a_step_moves_the_weights_against_the_gradient_of_the_sampled_network():
    net = network()
    learner = learner_of(net, 1e-3, clip_norm=None, weight_decay=0.0, reg="none", momentum=0.0)
    before, data = learner.state.weights.mu.clone(), split(32)
    learner.begin()
    leaf = learner._sample.detach().clone().requires_grad_()
    pieces = leaf.split(list(learner.state.sizes.values()))
    views = {n: p.view(v.shape) for (n, v), p in zip(learner.state.mu.views.items(), pieces, strict=True)}
    buffers = {name: buffer.clone() for name, buffer in learner.points.buffers.items()}
    cross_entropy(forward(net, {**learner.points.tensors(), **views, **buffers}, data.inputs), data.labels).backward()
    learner._generator.manual_seed(0)
    step_of(learner)
    assert torch.allclose(before - learner.state.weights.mu, 1e-3 * leaf.grad, atol=1e-7)


@pytest.mark.parametrize("reg", ["released", "hinge"])
@pytest.mark.parametrize("join", ["std_mu", "div10"])
def test_fixed_means_and_sigmas_keep_every_bit_for_100_steps_while_free_ones_move(reg, join):
    config = {"weight_decay": 0.1, "decay_sigma": True, "alpha": 1.0, "reg_bias": True}
    learner = learner_of(network(), reg=reg, sigma_join=join, **config)
    weights = learner.state.weights
    for _ in range(3):
        step_of(learner)  # momentum that must not go on to act
    fixed = torch.arange(len(weights)) % 3 == 0
    weights.fixed.copy_(fixed)
    weights.mu[fixed] = (weights.mu[fixed] * 128).round() / 128
    learner.begin_round()
    mu, sigma = weights.mu.clone(), weights.sigma.clone()
    for _ in range(100):
        step_of(learner)
    for now, before in ((weights.mu, mu), (weights.sigma, sigma)):
        assert now[fixed].view(torch.int32).equal(before[fixed].view(torch.int32))
        assert not (now[~fixed] == before[~fixed]).any()
    scaled = weights.mu[fixed] * 128
    assert torch.equal(scaled, scaled.round())


def test_under_keep_the_sigmas_of_fixed_weights_are_trained_and_their_means_are_not():
    learner = learner_of(network(), sigma_join="keep", alpha=1.0)
    weights = learner.state.weights
    weights.fixed[:50] = True
    learner.begin_round()
    mu, sigma = weights.mu.clone(), weights.sigma.clone()
    for _ in range(3):
        step_of(learner)
    assert torch.equal(weights.mu[:50], mu[:50])
    assert not (weights.sigma[:50] == sigma[:50]).any()


def shrinking(lr: float, momentum: float, decay: float, steps: int) -> float:
    """Factor on a mean that nothing but decay acts on."""
    x, v = 1.0, 0.0
    for _ in range(steps):
        v = momentum * v + decay * x
        x -= lr * v
    return x


def test_decay_of_fixed_means_shrinks_them_as_in_the_oracle():
    (case,) = oracle("decay_fixed")
    rates = [case["inputs"][name] for name in ("lr", "momentum", "weight_decay")]
    for steps, factor in zip(case["inputs"]["steps"], case["expected"]["factor"], strict=True):
        assert shrinking(*rates, steps) == pytest.approx(factor, rel=1e-6)
    config = {"momentum": 0.9, "weight_decay": 0.1, "recluster_all": True, "decay_fixed": True}
    learner = learner_of(Line(), 0.01, **config)
    learner.state.weights.mu.fill_(1.0)
    learner.state.weights.fixed.fill_(True)
    learner.begin_round()
    for _ in range(100):
        learner._sample.grad = torch.zeros(4)
        learner._eps.zero_()
        learner.update(0, NO_SKIP)
    assert learner.state.weights.mu.tolist() == pytest.approx([shrinking(0.01, 0.9, 0.1, 100)] * 4, rel=1e-5)


def test_frozen_tensors_are_not_trained():
    learner = learner_of(network(), frozen=("conv.weight",), alpha=1.0)
    mu, sigma = learner.state.weights.mu.clone(), learner.state.weights.sigma.clone()
    step_of(learner)
    assert torch.equal(learner.state.weights.mu[:72], mu[:72])
    assert torch.equal(learner.state.weights.sigma[:72], sigma[:72])
    assert not torch.equal(learner.state.weights.mu[72:], mu[72:])


def test_sigmas_of_biases_are_pushed_only_where_asked_to():
    def moved(**config: object) -> Tensor:
        learner = learner_of(Line(), alpha=1.0, **config)
        learner.state.weights.sigma.fill_(2**-31)  # no gradient of the data
        learner.begin()
        learner._sample.grad = torch.zeros(4)
        learner.update(0, NO_SKIP)
        return learner.state.weights.sigma > 2**-31

    assert moved().tolist() == [True, True, True, False]
    assert moved(reg_bias=True).tolist() == [True] * 4


def test_parts_move_either_the_means_and_the_rest_or_the_sigmas():
    def moved(part: str) -> tuple[bool, bool, bool]:
        learner = learner_of(network())
        learner.part = part  # type: ignore[assignment]
        weights, token = learner.state.weights, learner.points.trained["token"]
        before = [tensor.detach().clone() for tensor in (weights.mu, weights.sigma, token)]
        step_of(learner)
        now = (weights.mu, weights.sigma, token.detach())
        return tuple(not torch.equal(a, b) for a, b in zip(before, now, strict=True))  # type: ignore[return-value]

    assert moved("all") == (True, True, True)
    assert moved("means") == (True, False, True)
    assert moved("sigmas") == (False, True, False)


def test_the_part_of_the_means_has_no_noise():
    learner = learner_of(network())
    learner.part = "means"
    learner.begin()
    assert torch.equal(learner._sample.detach(), learner.state.weights.mu)


def test_a_loss_that_is_not_finite_moves_nothing():
    learner = learner_of(network())
    before = [tensor.clone() for tensor in (learner.state.weights.mu, learner.state.weights.sigma)]
    data = split(32)
    step = Step(learner, micro_batch=None, precision=Precision("fp32", torch.device("cpu")))
    step(data.inputs * torch.nan, data.labels, 0)
    assert step.skipped == 1
    assert torch.equal(before[0], learner.state.weights.mu)
    assert torch.equal(before[1], learner.state.weights.sigma)


def test_decay_reaches_only_the_gradients_that_a_part_uses():
    learner = learner_of(Line(), weight_decay=0.5, decay_sigma=True)
    for part, moved in (("all", (True, True)), ("means", (True, False)), ("sigmas", (False, True))):
        learner.part = part
        gradient, learner._eps = torch.zeros(4), torch.zeros(4)
        learner._add_decay(gradient)
        assert (bool(gradient.any()), bool(learner._eps.any())) == moved
