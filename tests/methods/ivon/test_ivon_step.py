"""One step of IVON: the oracle's numbers, optima that are known in closed form, and what must not be touched."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from ivon_cases import learner_of, network
from small_problems import split
from torch import Tensor, nn

from methods.finetuning.modes import only_norms_training
from methods.finetuning.select import Selection, select
from methods.finetuning.step import Step
from methods.ivon.curvature import decay_for, log_sd_of, starting_curvatures, starting_log_sd
from methods.ivon.learner import IvonLearner
from methods.mean_field.prior import Prior
from methods.mean_field.sigma import Initial
from methods.precision import Precision
from methods.training import cosine

CASES = json.loads((Path(__file__).parent / "oracles.json").read_text())["cases"]
FP32 = Precision("fp32", torch.device("cpu"))
NOTHING = torch.zeros(())


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Weights(nn.Module):
    """A network that is one vector of weights: its output is x w."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


ONLY_W = Selection(("w",), (), ())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_steps_follow_the_oracle(case, monkeypatch):
    given, hyper = case["inputs"], case["inputs"]["hyper"]
    prior = Prior(hyper["weight_decay"], int(hyper["ess"]))
    learner = learner_of(
        Weights(double(given["mean_before"])),
        prior,
        lambda t: hyper["lr"],
        selection=ONLY_W,
        curvature=hyper["hess_init"],
        beta2=hyper["beta2"],
    )
    assert hyper["beta1"] == 0.9
    noises = iter(given["standard_normal_noise"])
    monkeypatch.setattr(torch, "randn", lambda *size, **options: double(next(noises)))
    for t, expected in enumerate(case["expected"]["steps"]):
        learner.begin()
        w = learner.weights()["w"]
        loss = 0.5 * (double(given["A"]) * (w - double(given["w_star"])).square()).sum()
        loss.backward()
        found = {"sampled_w": w.detach().clone(), "loss": loss.detach(), "grad": w.grad}
        learner.update(t, NOTHING)
        learner.write_log_sd()
        saved = learner.state_dict()
        found |= {"h_after": saved["hess"]["w"], "momentum_after": saved["momentum"]["w"]}
        found |= {"mean_after": learner.state.mu.flat, "psi_after": learner.state.psi.flat}
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert (value - double(expected[name])).abs().max() <= case["tolerance"]["abs"], name
        w.grad = None


def test_conjugate_regression_ends_at_the_posterior_deviations():
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(math.log10(3), math.log10(0.05), 6, dtype=torch.float64)
    x = torch.randn(500, 6, dtype=torch.float64, generator=generator) * scales
    y = x @ torch.randn(6, dtype=torch.float64, generator=generator)
    prior, noise_var, steps = Prior(0.01, 500), 0.25, 6000
    curvature, pull = x.T @ x / (500 * noise_var), x.T @ y / (500 * noise_var)
    mean = torch.linalg.solve(curvature + prior.lam * torch.eye(6), pull)
    exact = log_sd_of(curvature.diagonal().clone(), prior)
    learner = learner_of(Weights(mean.clone()), prior, lambda t: cosine(t, steps, 0.05), selection=ONLY_W)
    for t in range(steps):
        learner.begin()
        (w,) = learner.leaves()
        w.grad = curvature @ w.detach() - pull
        learner.update(t, NOTHING)
    learner.write_log_sd()
    # e^-6 of the starting curvature 1 is left, beside a curvature of 0.01 and lambda 0.01 of the flattest weight: 0.06.
    assert (learner.state.psi.flat - exact).abs().max() < 0.15
    assert ((learner.state.mu.flat - mean) / exact.exp()).abs().max() < 0.5


def steps_of(learner: IvonLearner, net: nn.Module, count: int, micro_batch: int | None = None) -> Step:
    """`count` steps on one batch, with the network's statistics frozen."""
    step, data = Step(learner, micro_batch=micro_batch, precision=FP32), split(20)
    with only_norms_training(net, False):
        for t in range(count):
            step(data.inputs, data.labels, t)
    return step


def small(seed: int = 0, **options: object) -> tuple[nn.Module, IvonLearner]:
    net = network()
    return net, learner_of(net, Prior(5e-4, 60), lambda t: 0.1, beta2=0.99, seed=seed, **options)


def test_a_step_moves_means_curvatures_and_points_but_not_the_network():
    net, learner = small()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    psi = learner.state.psi.flat.clone()
    steps_of(learner, net, 2)
    learner.write_log_sd()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(not torch.equal(before[name], mean) for name, mean in learner.state.mu.views.items())
    assert all(not torch.equal(before[name], tensor) for name, tensor in learner.points.trained.items())
    assert (learner.state.psi.flat != psi).all()


def test_an_exception_inside_a_step_leaves_the_means_and_the_next_steps_alone():
    net, learner = small()
    _, other = small()
    before = learner.state.mu.flat.clone()

    class BrokenError(Exception):
        pass

    def broken(module: nn.Module, inputs: object) -> None:
        raise BrokenError

    hook = net.head.register_forward_pre_hook(broken)
    with pytest.raises(BrokenError):
        steps_of(learner, net, 1)
    hook.remove()
    assert torch.equal(learner.state.mu.flat, before)
    learner.begin()  # the second draw, around means without the first one's noise
    other.begin()
    other.begin()
    for name, weight in learner.weights().items():
        assert torch.equal(weight, other.weights()[name]), name


def test_noise_is_around_the_mean_with_the_deviation_of_the_curvature():
    net = Weights(torch.full((100_000,), 3.0))
    prior = Prior(0.5, 40)
    learner = learner_of(net, prior, lambda t: 0.1, selection=ONLY_W, curvature=2.0)
    learner.begin()
    noise = (learner.weights()["w"].detach() - 3.0).double()
    assert float(noise.std()) == pytest.approx(1 / math.sqrt(40 * 2.5), rel=0.01)  # 1e5 draws: 0.2 %
    assert abs(float(noise.mean())) < 5 * float(noise.std()) / math.sqrt(100_000)


def test_frozen_parameters_are_neither_perturbed_nor_moved():
    net = network()
    net.conv.weight.requires_grad_(False)
    learner = learner_of(net, Prior(5e-4, 60), lambda t: 0.1, selection=select(net, "weights", train_rest=False))
    before = {name: tensor.clone() for name, tensor in learner.weights().items()}
    learner.begin()
    noisy = {name for name, tensor in learner.weights().items() if not torch.equal(tensor, before[name])}
    assert noisy == {"head.weight"}
    steps_of(learner, net, 2)
    moved = {name for name, tensor in learner.weights().items() if not torch.equal(tensor, before[name])}
    assert moved == {"head.weight"}


def test_a_weight_without_gradient_counts_as_gradient_zero():
    _, learner = small()
    learner.begin()
    weights = learner.weights()
    weights["head.weight"].sum().backward()  # the convolution takes no part
    assert weights["conv.weight"].grad is None
    before = learner.state.mu.views["conv.weight"].clone()
    learner.update(0, NOTHING)
    after = learner.state.mu.views["conv.weight"]
    # What is left is the prior's pull: w - lr (h0 + lambda) lambda w / (h + lambda), h having decayed once.
    h = 0.99 + 0.5 * 0.01**2 / 1.0005
    assert torch.allclose(after, before * (1 - 0.1 * 1.0005 * 5e-4 / (h + 5e-4)), rtol=1e-6)


def test_a_step_whose_loss_is_not_finite_changes_nothing_but_the_draw():
    net, learner = small()
    step = steps_of(learner, net, 2)
    before = learner.state_dict()
    kept = {key: {name: tensor.clone() for name, tensor in before[key].items()} for key in ("hess", "momentum")}
    mu = learner.state.mu.flat.clone()
    points = {name: tensor.clone() for name, tensor in learner.points.tensors().items()}
    data = split(20)
    with only_norms_training(net, False):
        step(torch.full_like(data.inputs, math.nan), data.labels, 2)
    after = learner.state_dict()
    assert torch.equal(learner.state.mu.flat, mu)
    assert all(torch.equal(after[key][name], kept[key][name]) for key in kept for name in kept[key])
    assert all(torch.equal(tensor, points[name]) for name, tensor in learner.points.tensors().items())
    assert (after["steps"], after["draws"]) == (2, 3)
    assert step.skipped == 1
    assert all(torch.equal(learner.weights()[name], mean) for name, mean in learner.state.mu.views.items())


@pytest.mark.parametrize("micro_batch", [1, 7])
def test_micro_batches_give_the_step_of_the_whole_batch(micro_batch):
    whole_net, whole = small()
    parts_net, parts = small()
    steps_of(whole, whole_net, 1)
    steps_of(parts, parts_net, 1, micro_batch)
    assert torch.allclose(whole.state.mu.flat, parts.state.mu.flat, atol=1e-6)


def test_the_noise_depends_on_seed_and_draw_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    (_, first), (_, same), (_, other) = small(), small(), small(seed=1)
    for learner in (first, same, other):
        learner.begin()
    assert torch.equal(torch.get_rng_state(), before)
    drawn = [learner.weights()["conv.weight"].detach().clone() for learner in (first, same, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    first.begin()
    assert not torch.equal(first.weights()["conv.weight"], drawn[0])


def test_a_saved_state_goes_on_in_another_learner_bit_for_bit():
    net, whole = small()
    steps_of(whole, net, 2)
    saved = torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, whole.state_dict())
    assert set(saved["hess_init"].values()) == {1.0}
    resumed = learner_of(net, Prior(5e-4, 60), lambda t: 0.1, curvature=7.0, beta2=0.99)
    resumed.load_state_dict(saved)
    for learner in (whole, resumed):
        steps_of(learner, net, 2)
        learner.write_log_sd()
    assert torch.equal(whole.state.mu.flat, resumed.state.mu.flat)
    assert torch.equal(whole.state.psi.flat, resumed.state.psi.flat)


def test_an_update_needs_its_noise():
    _, learner = small()
    with pytest.raises(RuntimeError, match="begin"):
        learner.update(0, NOTHING)


def test_bf16_passes_leave_means_and_curvatures_in_float32():
    net, learner = small()
    data = split(20)
    step = Step(learner, micro_batch=None, precision=Precision("bf16", torch.device("cpu")))
    with only_norms_training(net, False):
        loss = step(data.inputs, data.labels, 0)
    assert torch.isfinite(loss)
    saved = learner.state_dict()
    assert {tensor.dtype for key in ("hess", "momentum") for tensor in saved[key].values()} == {torch.float32}
    assert learner.state.mu.flat.dtype == torch.float32


def test_curvature_and_deviation_belong_to_each_other():
    prior = Prior(1e-3, 200)
    sigma = Initial({"a": torch.tensor(-3.0), "b": torch.tensor(prior.log_sd), "c": torch.tensor(-9.0)}, 0.25)
    curvatures = starting_curvatures(sigma, prior)
    assert curvatures["a"] == pytest.approx(math.exp(6) / 200 - 1e-3)
    assert curvatures["b"] == 1e-4  # as wide as the prior: no curvature of its own
    back = starting_log_sd(curvatures, prior, 0.25)
    assert back.clipped == 0.25
    assert float(back.log_sd["a"]) == pytest.approx(-3.0)
    assert float(back.log_sd["c"]) == pytest.approx(-9.0)
    assert float(back.log_sd["b"]) == pytest.approx(-0.5 * math.log(200 * 1.1e-3))


@pytest.mark.parametrize(("steps", "beta2"), [(1, 0.9), (20, 0.9), (200, 0.99), (10**7, 0.99999)])
def test_the_decay_of_the_curvature_follows_the_length_of_the_fit(steps, beta2):
    assert decay_for(steps) == pytest.approx(beta2)
