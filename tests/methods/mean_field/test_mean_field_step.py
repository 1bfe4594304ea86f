"""One training step: gradients, trajectories, optima that are known in closed form, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
from mean_field_cases import Small, SmallConvNet, double, network, oracle, oracle_of
from small_problems import split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from benchmark import Diverged
from methods.finetuning.flat import CHUNK, Flat
from methods.finetuning.modes import averaging, only_norms_training, resolve_bn
from methods.finetuning.select import Selection
from methods.finetuning.step import LOOK_EVERY, MAX_SKIPPED
from methods.mean_field.estimators.shared import log_sd_gradient, perturb
from methods.mean_field.prior import Prior, log_sd_limits
from methods.mean_field.rates import Travel


def test_a_shared_sample_gives_the_oracle_s_output():
    case = oracle_of("shared_linear")
    given = {key: double(value) for key, value in case["inputs"].items()}
    sample = {}
    for part in ("w", "b"):
        sample[part] = given[f"eps_{part}"].reshape(-1).clone()
        perturb(sample[part], given[f"mu_{part}"].reshape(-1), given[f"psi_{part}"].reshape(-1))
    found = linear(given["x"], sample["w"].view_as(given["mu_w"]), sample["b"])
    assert (found - double(case["expected"]["out"])).abs().max() < 1e-9


def test_two_heavy_ball_steps_follow_the_oracle():
    case = oracle_of("shared_heavy_ball_steps")
    given = case["inputs"]
    mu = Flat.copy_of({name: double(given["params"][f"{name}_mu"]) for name in ("weight", "bias")})
    psi = Flat.copy_of({name: double(given["params"][f"{name}_psi"]) for name in ("weight", "bias")})
    eps = torch.cat([double(given["eps_w"]).reshape(-1), double(given["eps_b"])])
    prior = Prior(given["lam"], given["N"])
    x, y = double(given["x"]), torch.tensor(given["y"])
    optimisers = [
        torch.optim.SGD([mu.flat], lr=given["lr_mu"], momentum=given["momentum"]),
        torch.optim.SGD([psi.flat], lr=given["lr_psi"], momentum=given["momentum"]),
    ]
    for expected in case["expected"]["steps"]:
        sample = Flat.like(mu)
        sample.flat.copy_(eps)
        perturb(sample.flat, mu.flat, psi.flat)
        leaves = [view.requires_grad_() for view in sample.views.values()]
        logits = linear(x, *leaves)
        loss = cross_entropy(logits, y)
        gradients = list(torch.autograd.grad(loss, leaves))
        assert (logits.detach() - double(expected["logits"])).abs().max() < 1e-9
        assert float(loss.detach()) == pytest.approx(expected["loss"], abs=1e-9)
        psi.flat.grad = log_sd_gradient(sample, mu.flat, gradients)
        prior.add_log_sd_gradient(psi.flat.grad, psi.flat)
        prior.add_mean_gradient(gradients, mu.views)
        mu.flat.grad = torch.cat([gradient.reshape(-1) for gradient in gradients])
        for optimiser in optimisers:
            optimiser.step()
        for name in ("weight", "bias"):
            for flat, suffix in ((mu, "mu"), (psi, "psi")):
                after = double(expected["params_after"][f"{name}_{suffix}"])
                assert (flat.views[name] - after).abs().max() < 1e-9


def test_the_gradient_by_hand_is_that_of_autograd_through_the_reparameterisation():
    net = network().double()
    generator = torch.Generator().manual_seed(0)
    own = {name: value.detach() for name, value in net.named_parameters()}
    mu = Flat.copy_of(own)
    eps = torch.randn(len(mu), dtype=torch.float64, generator=generator)
    x, y = split(20).inputs.double(), split(20).labels

    leaves = {name: value.clone().requires_grad_() for name, value in own.items()}
    log_sds = {name: torch.full_like(value, -1.5).requires_grad_() for name, value in own.items()}
    noise = Flat.copy_of(own)
    noise.flat.copy_(eps)
    weights = {name: leaves[name] + log_sds[name].exp() * noise.views[name] for name in own}
    cross_entropy(torch.func.functional_call(net, weights, (x,)), y).backward()

    sample = Flat.like(mu)
    sample.flat.copy_(eps)
    perturb(sample.flat, mu.flat, torch.full_like(mu.flat, -1.5))
    samples = {name: view.requires_grad_() for name, view in sample.views.items()}
    loss = cross_entropy(torch.func.functional_call(net, samples, (x,)), y)
    gradients = torch.autograd.grad(loss, list(samples.values()))
    by_hand = log_sd_gradient(sample, mu.flat, gradients)
    for gradient, leaf in zip(gradients, leaves.values(), strict=True):
        assert torch.allclose(gradient, leaf.grad, rtol=1e-12, atol=1e-12)
    expected = torch.cat([value.grad.reshape(-1) for value in log_sds.values()])
    assert torch.allclose(by_hand, expected, rtol=1e-12, atol=1e-12)


def test_formulas_in_chunks_equal_those_in_one_piece():
    n = CHUNK + 3
    generator = torch.Generator().manual_seed(0)
    eps, mu, psi = (torch.randn(n, generator=generator) for _ in range(3))
    expected = mu + psi.exp() * eps
    perturb(eps, mu, psi)
    assert torch.allclose(eps, expected, rtol=1e-6, atol=1e-6)


def test_a_skipped_batch_leaves_no_trace_in_weights_or_running_statistics():
    data, net = split(20), network()
    step = Small(net)
    before = {name: tensor.detach().clone() for name, tensor in step.tensors().items()}
    poisoned = data.inputs.clone()
    poisoned[3] = float("nan")
    with only_norms_training(net, True):
        step(poisoned, data.labels, 0)
    after = step.tensors()
    assert step.step.skipped == 1
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_micro_batch_is_a_small_remainder():
    data = split(33)
    step = Small(network(), micro_batch=16)
    sizes: list[int] = []
    step.net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with only_norms_training(step.net, True):
        step(data.inputs, data.labels, 0)
    assert sizes == [11, 11, 11]


@pytest.mark.parametrize("micro_batch", [1, 7, 20])
def test_micro_batches_give_the_same_step(micro_batch):
    data = split(20)
    steps = [Small(network(), micro_batch=size) for size in (None, micro_batch)]
    for step in steps:
        with only_norms_training(step.net, False):
            loss = step(data.inputs, data.labels, 0)
        assert math.isfinite(loss)
    whole, pieces = (step.state for step in steps)
    assert torch.allclose(whole.mu.flat, pieces.mu.flat, atol=1e-6)
    # Adam's first step is a sign times the rate: where the gradient is not zero, all is equal.
    assert torch.allclose(whole.psi.flat, pieces.psi.flat, atol=1e-6)
    assert all(
        torch.allclose(whole.points.trained[name], pieces.points.trained[name], atol=1e-6)
        for name in whole.points.trained
    )


def test_vanishing_noise_with_fixed_sigma_trains_like_a_point():
    data = split(60)
    net = network()
    names = tuple(name for name, _ in net.named_parameters())
    noisy = Small(net, psi=-20.0, travel_rate=None)
    point = Small(net, travel_rate=None, selection=Selection((), names, ()))
    for step in (noisy, point):
        with only_norms_training(net, True):
            for t in range(10):
                step(data.inputs, data.labels, t)
    for name, tensor in {**noisy.state.mu.views, **noisy.state.points.trained}.items():
        assert torch.allclose(tensor, point.state.points.trained[name], atol=1e-6)
    for name, buffer in noisy.state.points.buffers.items():
        assert torch.allclose(buffer, point.state.points.buffers[name], atol=1e-6)
    assert (noisy.state.psi.flat == -20).all()


def test_dropout_is_off_inside_a_step_and_the_network_keeps_everything():
    net = SmallConvNet().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    data = split(40)
    losses = []
    for _ in range(2):
        step = Small(net)
        with only_norms_training(net, True):
            losses.append(float(step(data.inputs, data.labels, 0)))
        assert not torch.equal(step.state.points.buffers["norm.running_mean"], before["norm.running_mean"])
    assert losses[0] == losses[1]  # a dropout mask from the global generator would differ
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert net.dropout.p == 0.5


def test_statistics_stay_frozen_when_asked_and_below_sixteen_examples():
    net = network()
    assert resolve_bn(net, "train", 16) == "train"
    assert resolve_bn(net, "train", 15) == "frozen"
    assert resolve_bn(nn.Linear(2, 2), "train", 128) == "none"
    step = Small(net)
    with only_norms_training(net, False):
        step(split(20).inputs, split(20).labels, 0)
    assert torch.equal(step.state.points.buffers["norm.running_mean"], net.norm.running_mean)


def test_averaging_is_undone():
    net = network()
    with averaging(net):
        assert net.norm.momentum is None
    assert net.norm.momentum == 0.1


def test_a_loss_that_is_not_finite_changes_no_weight_and_eleven_in_a_row_diverge():
    net = network()
    step = Small(net)
    before = step.state.mu.flat.clone(), step.state.psi.flat.clone()
    broken = torch.full((20, 1, 6, 6), math.nan)
    labels = split(20).labels
    with only_norms_training(net, False):
        for t in range(MAX_SKIPPED):
            assert math.isnan(step(broken, labels, t))
        assert torch.equal(step.state.mu.flat, before[0])
        assert torch.equal(step.state.psi.flat, before[1])
        step(split(20).inputs, labels, MAX_SKIPPED)  # a good step ends the row
        step.step.look()
        assert step.step.skipped == MAX_SKIPPED
        for t in range(MAX_SKIPPED):
            step(broken, labels, t)
        step.step.look()
        step(broken, labels, 0)
        with pytest.raises(Diverged, match="lr_mu"):
            step(broken, labels, LOOK_EVERY - 1)


def test_psi_is_clamped_to_half_a_nat_above_its_resting_value():
    step = Small(network(), travel_rate=5.0)
    data = split(20)
    with only_norms_training(step.net, False):
        for t in range(3):
            step(data.inputs, data.labels, t)
    low, high = log_sd_limits(step.prior)
    assert high == step.prior.log_sd + 0.5
    assert float(step.state.psi.flat.min()) >= low
    assert float(step.state.psi.flat.max()) <= high + 1e-6


def test_a_parameter_without_gradient_in_one_batch_counts_as_zero_gradient():
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(36, 3), nn.Linear(36, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.first if len(x) < 15 else self.second)(x.flatten(1))

    net = Sometimes()
    step = Small(net, travel_rate=None, decaying=set())
    step(split(10).inputs, split(10).labels, 0)
    decay = 1 - 0.05 * 1.9 * 5e-3  # Nesterov's first step: (1 + momentum) times the gradient of the prior
    assert torch.allclose(step.state.mu.views["second.weight"], net.second.weight.detach() * decay, rtol=1e-5)


@pytest.mark.parametrize("case", oracle("psi_travel_lr"), ids=lambda case: case["id"])
def test_the_peak_rate_of_psi_follows_from_the_way_it_may_travel(case):
    given = case["inputs"]
    assert given["end_fraction"] == 0.1
    way = Travel(given["travel"], given["steps"])
    assert way.peak == pytest.approx(case["expected"]["peak_lr"], rel=1e-9)
    assert sum(map(way.rates(), range(given["steps"]))) == pytest.approx(given["travel"], rel=1e-9)
    assert Travel(1e6, 10).peak == given["cap"]


@pytest.mark.parametrize("case", oracle("quadratic_optimum"), ids=lambda case: case["id"])
def test_the_closed_optimum_of_linear_regression_has_zero_gradient(case):
    x, y = double(case["inputs"]["X"]), double(case["inputs"]["y"])
    n, noise = len(y), case["inputs"]["noise_var"]
    prior = Prior(case["inputs"]["lam"], n)
    mu, psi = double(case["expected"]["mu"]), double(case["expected"]["psi"])
    curvature = x.T @ x / (n * noise)
    assert torch.allclose(curvature, double(case["expected"]["H"]), atol=1e-9)
    g_mu = curvature @ mu - x.T @ y / (n * noise)
    g_psi = (2 * psi).exp() * curvature.diagonal()  # E[g (w - mu)] of a quadratic loss
    prior.add_mean_gradient([g_mu], {"w": mu})
    prior.add_log_sd_gradient(g_psi, psi)
    assert float(g_mu.abs().max()) < 1e-9
    assert float(g_psi.abs().max()) < 1e-9


def test_adam_finds_the_posterior_deviations_of_conjugate_regression():
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(math.log10(3), math.log10(0.05), 6, dtype=torch.float64)
    x = torch.randn(500, 6, dtype=torch.float64, generator=generator) * scales
    y = x @ torch.randn(6, dtype=torch.float64, generator=generator)
    prior = Prior(1e-3, 500)
    curvature, pull = x.T @ x / 500, x.T @ y / 500  # unit noise variance
    exact = -0.5 * (500 * (curvature.diagonal() + prior.lam)).log()
    mu = Flat.copy_of({"w": torch.linalg.solve(curvature + prior.lam * torch.eye(6), pull)})
    psi = torch.full((6,), -3.0, dtype=torch.float64)
    optimiser = torch.optim.Adam([psi], lr=0.01, eps=1e-12, fused=True)
    sample = Flat.like(mu)
    for t in range(4000):
        optimiser.param_groups[0]["lr"] = 0.001 + 0.009 * (1 + math.cos(math.pi * t / 4000)) / 2
        perturb(sample.flat.normal_(generator=generator), mu.flat, psi)
        psi.grad = log_sd_gradient(sample, mu.flat, [curvature @ sample.flat - pull])
        prior.add_log_sd_gradient(psi.grad, psi)
        optimiser.step()
    assert (psi - exact).abs().max() < 0.15
