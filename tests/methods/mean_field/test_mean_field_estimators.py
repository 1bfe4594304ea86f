"""The estimators: which law their noise has, where it is exact, and networks that know nothing of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import pytest
import timm
import torch
from mean_field_cases import double, network, oracle_of
from small_problems import split
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from benchmark import ConfigError, weights_of
from methods.finetuning.flat import Flat
from methods.finetuning.modes import only_norms_training
from methods.finetuning.select import select
from methods.mean_field.estimators import choose
from methods.mean_field.estimators.choose import RULES, choose_estimator
from methods.mean_field.estimators.exemplar import Exemplar
from methods.mean_field.estimators.flipout import Flipout
from methods.mean_field.estimators.ruled import GaussianRule, Ruled
from methods.mean_field.estimators.shared import Shared
from methods.mean_field.state import MeanFieldState

DRAWS = 200_000
CHUNK = 20_000


def gaussians(net: nn.Module, psi: float | None = None, seed: int = 0) -> tuple[Flat, Flat]:
    """mu of every parameter, and psi: one value, or spread over [-2.5, -0.5]."""
    mu = Flat.copy_of({name: value.detach() for name, value in net.named_parameters()})
    log_sd = Flat.like(mu)
    if psi is None:
        log_sd.flat.uniform_(-2.5, -0.5, generator=torch.Generator().manual_seed(seed))
    else:
        log_sd.flat.fill_(psi)
    return mu, log_sd


def estimate(name: str, net: nn.Module, mu: Flat, psi: Flat, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return Shared(mu, psi, generator) if name == "shared" else Ruled(mu, psi, lambda each: RULES[name](each, generator))


def run(estimator, net: nn.Module, x: Tensor) -> Tensor:
    estimator.begin()
    return functional_call(net, {**dict(net.named_buffers()), **estimator.weights()}, (x,))


def moments(chunks: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F) over draws, from chunks (n, F) of them."""
    outs = torch.cat(list(chunks)).double()
    return outs.mean(0), torch.cov(outs.T)


def draws_of(name: str, net: nn.Module, mu: Flat, psi: Flat, x: Tensor) -> Iterator[Tensor]:
    """Outputs (n, F) of one example x (1, ...) under many draws: of copies, where examples have their own noise."""
    estimator = estimate(name, net, mu, psi)
    for _ in range(DRAWS // CHUNK):
        yield run(estimator, net, x.expand(CHUNK, *x.shape[1:])).detach().flatten(1)


def theory(net: nn.Module, mu: Flat, psi: Flat, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F) of the outputs of a network that is linear in its weights."""
    with torch.no_grad():
        mean = functional_call(net, dict(mu.views), (x,)).flatten()
    jacobian = torch.func.jacrev(lambda w: functional_call(net, w, (x,)).flatten())(dict(mu.views))
    rows = torch.cat([jacobian[name].flatten(1) for name in mu.views], dim=1).double()
    return mean.double(), (rows * (2 * psi.flat.double()).exp()) @ rows.T


LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "tokens": (lambda: nn.Linear(4, 2), (3, 4)),
    "conv": (lambda: nn.Conv2d(2, 2, 3), (2, 4, 4)),
}


def layer(kind: str) -> tuple[nn.Module, Tensor]:
    make, shape = LAYERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make(), torch.randn(1, *shape)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", ["exemplar", "local"])
def test_outputs_have_the_mean_and_variance_of_the_gaussian(name, kind):
    net, x = layer(kind)
    mu, psi = gaussians(net)
    mean, covariance = moments(draws_of(name, net, mu, psi, x))
    expected_mean, expected = theory(net, mu, psi, x)
    deviation = expected.diagonal().sqrt()
    assert ((mean - expected_mean).abs() < 5 * deviation / math.sqrt(DRAWS)).all()
    assert (covariance.diagonal() / expected.diagonal() - 1).abs().max() < 0.01


@pytest.mark.parametrize("kind", ["tokens", "conv"])
@pytest.mark.parametrize(("name", "kept"), [("exemplar", 1.0), ("local", 0.0)])
def test_places_of_one_example_are_correlated_as_their_weights_say_except_under_local(name, kept, kind):
    net, x = layer(kind)
    mu, psi = gaussians(net)
    _, covariance = moments(draws_of(name, net, mu, psi, x))
    _, expected = theory(net, mu, psi, x)
    found, exact = (value / (value.diagonal().outer(value.diagonal())).sqrt() for value in (covariance, expected))
    others = ~torch.eye(len(exact), dtype=torch.bool)
    assert exact[others].abs().max() > 0.2
    assert (found - kept * exact)[others].abs().max() < 0.01


@pytest.mark.parametrize("name", ["shared", "flipout", "exemplar", "local"])
def test_examples_share_their_noise_only_under_shared(name):
    net, x = layer("linear")
    mu, psi = gaussians(net)
    estimator = estimate(name, net, mu, psi)
    pair = x.expand(2, -1)  # the same example twice
    outs = torch.stack([run(estimator, net, pair).detach() for _ in range(6_000)]).double()  # (n, 2, 3)
    expected_mean, expected = theory(net, mu, psi, x)
    away = outs - expected_mean
    correlation = (away[:, 0] * away[:, 1]).mean(0) / expected.diagonal()
    target = 1.0 if name == "shared" else 0.0
    assert (correlation - target).abs().max() < 0.08
    assert (away.square().mean(0) / expected.diagonal() - 1).abs().max() < 0.08  # flipout and shared: the marginal law


@pytest.mark.parametrize("kind", ["tokens", "conv"])
def test_flipout_keeps_the_covariance_inside_an_example(kind):
    net, x = layer(kind)
    mu, psi = gaussians(net)
    copies = 100  # signs are independent over copies, the perturbation over steps
    estimator = estimate("flipout", net, mu, psi)
    outs = torch.cat([run(estimator, net, x.expand(copies, *x.shape[1:])).detach().flatten(1) for _ in range(3_000)])
    _, exact = theory(net, mu, psi, x)
    found = torch.cov(outs.double().T)
    scale = exact.diagonal().outer(exact.diagonal()).sqrt()
    assert ((found - exact) / scale).abs().max() < 0.08


def test_an_exemplar_layer_gives_the_oracle_s_output(monkeypatch):
    case = oracle_of("exemplar_linear")
    given = {key: double(value) for key, value in case["inputs"].items()}
    net = nn.Linear(3, 2).double()
    estimator = _with_noise(net, given, Exemplar, [given["eps_w_per_example"], given["eps_b_per_example"]], monkeypatch)
    found = run(estimator, net, given["x"])
    assert (found - double(case["expected"]["out"])).abs().max() < case["tolerance"]["abs"]
    mu, psi = estimator_state(net, given)
    mean, covariance = zip(*(theory(net, mu, psi, row[None]) for row in given["x"]), strict=True)
    assert (torch.stack(mean) - double(case["expected"]["mean"])).abs().max() < 1e-9
    variances = torch.stack([value.diagonal() for value in covariance])
    assert (variances - double(case["expected"]["var"])).abs().max() < 1e-9


def test_a_flipout_layer_gives_the_oracle_s_output(monkeypatch):
    case = oracle_of("flipout_linear")
    given = {key: double(value) for key, value in case["inputs"].items()}
    net = nn.Linear(3, 2).double()
    signs = iter([given["sign_in"], given["sign_out"]])
    monkeypatch.setattr(Flipout, "_signs", lambda self, *layer: next(signs))
    estimator = _with_noise(net, given, Flipout, [given["eps_w"], given["eps_b"]], monkeypatch)
    assert (run(estimator, net, given["x"]) - double(case["expected"]["out"])).abs().max() < case["tolerance"]["abs"]


def test_an_exemplar_batch_norm_gives_the_oracle_s_output(monkeypatch):
    case = oracle_of("exemplar_batchnorm2d_eval")
    given = {key: double(value) for key, value in case["inputs"].items()}
    net = nn.BatchNorm2d(2, eps=case["inputs"]["eps"]).double().eval()
    net.running_mean.copy_(given["running_mean"])
    net.running_var.copy_(given["running_var"])
    renamed = {"mu_w": "weight_mu", "psi_w": "weight_psi", "mu_b": "bias_mu", "psi_b": "bias_psi"}
    given |= {key: given[value] for key, value in renamed.items()}
    estimator = _with_noise(net, given, Exemplar, [given["eps_w"], given["eps_b"]], monkeypatch)
    assert (run(estimator, net, given["x"]) - double(case["expected"]["out"])).abs().max() < case["tolerance"]["abs"]


def estimator_state(net: nn.Module, given: Mapping[str, Tensor]) -> tuple[Flat, Flat]:
    mu = Flat.copy_of({"weight": given["mu_w"], "bias": given["mu_b"]})
    return mu, Flat.copy_of({"weight": given["psi_w"], "bias": given["psi_b"]})


def _with_noise(net, given, rule, noise: list[Tensor], monkeypatch) -> Ruled:
    """An estimator whose standard normal deviates are `noise`, one after the other."""
    left = iter(value.clone() for value in noise)
    monkeypatch.setattr(GaussianRule, "normal", lambda self, *shape, like: next(left).view(shape))
    return Ruled(*estimator_state(net, given), lambda each: rule(each, torch.Generator()))


SHAPES = {
    "tokens": (lambda: nn.Linear(4, 3), (5, 7, 4)),
    "one output": (lambda: nn.Linear(4, 1), (6, 4)),
    "one example": (lambda: nn.Linear(4, 3), (1, 4)),
    "no bias": (lambda: nn.Linear(4, 3, bias=False), (6, 4)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (3, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (3, 4, 5, 5)),
    "dilated": (lambda: nn.Conv2d(2, 3, 3, dilation=2), (3, 2, 7, 7)),
    "strided": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (3, 2, 7, 7)),
    "same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (3, 2, 5, 5)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (3, 2, 5, 5)),
    "one dimension": (lambda: nn.Conv1d(2, 3, 3), (4, 2, 9)),
    "three dimensions": (lambda: nn.Conv3d(1, 2, 2), (2, 1, 4, 4, 4)),
    "batch norm": (lambda: nn.BatchNorm2d(3).eval(), (4, 3, 5, 5)),
    "layer norm": (lambda: nn.LayerNorm(6), (4, 5, 6)),
    "layer norm over a map": (lambda: nn.LayerNorm((3, 5)), (4, 3, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (3, 4, 5, 5)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_exemplar_equals_a_loop_over_examples_with_the_same_noise(kind):
    make, shape = SHAPES[kind]
    torch.manual_seed(0)
    net, x = make().double(), torch.randn(shape, dtype=torch.float64)
    mu, psi = gaussians(net)
    estimator = estimate("exemplar", net, mu, psi, seed=7)
    found = run(estimator, net, x)
    (found * torch.linspace(0, 1, found.numel(), dtype=torch.float64).view_as(found)).sum().backward()
    assert not estimator.fallbacks()

    generator = torch.Generator().manual_seed(7)
    noise = {
        name: torch.randn(len(x), *value.shape, dtype=torch.float64, generator=generator)
        for name, value in mu.views.items()  # weight, then bias, as the layer asks for them
    }
    leaves = {name: value.clone().requires_grad_() for name, value in mu.views.items()}
    log_sds = {name: value.clone().requires_grad_() for name, value in psi.views.items()}
    outs = []
    for i in range(len(x)):
        weights = {name: leaves[name] + log_sds[name].exp() * noise[name][i] for name in leaves}
        outs.append(functional_call(net, {**dict(net.named_buffers()), **weights}, (x[i : i + 1],)))
    expected = torch.cat(outs)
    assert (found - expected).abs().max() < 1e-12
    (expected * torch.linspace(0, 1, found.numel(), dtype=torch.float64).view_as(found)).sum().backward()
    for gradient, leaf in zip(estimator.mean_gradients(), leaves.values(), strict=True):
        assert (gradient - leaf.grad).abs().max() < 1e-10
    expected_psi = torch.cat([value.grad.flatten() for value in log_sds.values()])
    assert (estimator.log_sd_gradient() - expected_psi).abs().max() < 1e-10


def test_channels_last_inputs_give_the_same_outputs():
    torch.manual_seed(0)
    net, x = nn.Conv2d(4, 6, 3, groups=2).double(), torch.randn(3, 4, 5, 5, dtype=torch.float64)
    mu, psi = gaussians(net)
    for name in RULES:
        plain = run(estimate(name, net, mu, psi), net, x)
        other = run(estimate(name, net, mu, psi), net, x.contiguous(memory_format=torch.channels_last))
        assert (plain - other).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["exemplar", "flipout", "local"])
def test_gradients_of_psi_are_those_of_finite_differences(name):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).double(), torch.randn(3, 1, 4, 4).double()
    mu, psi = gaussians(net)

    def loss(log_sd: Flat) -> tuple[Tensor, Tensor]:
        estimator = estimate(name, net, mu, log_sd, seed=4)
        value = run(estimator, net, x).square().sum()
        value.backward()
        return value.detach(), estimator.log_sd_gradient().clone()

    _, gradient = loss(psi)
    for index in (0, 5, 17, len(psi) - 1):
        values = []
        for sign in (1, -1):
            moved = Flat.copy_of(psi.views)
            moved.flat[index] += sign * 1e-6
            values.append(loss(moved)[0])
        assert float(gradient[index]) == pytest.approx(float((values[0] - values[1]) / 2e-6), rel=1e-5, abs=1e-7)


NETWORKS = {
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2),
    "resnet": lambda: timm.create_model("resnet18", num_classes=3, zero_init_last=False, channels=(8, 8, 16, 16)),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=3, depths=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("which", ["weights", "all"])
def test_untouched_networks_of_timm_give_every_psi_a_gradient(kind, which):
    torch.manual_seed(0)
    net = NETWORKS[kind]()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = MeanFieldState(net, select(net, which, train_rest=True))
    state.psi.flat.fill_(-3.0)
    x, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 3
    for name in ("shared", *RULES):
        estimator = choose_estimator(name, state, torch.Generator().manual_seed(0), 16)
        estimator.begin()
        with only_norms_training(net, True):
            weights = {**state.points.tensors(), **estimator.weights()}
            cross_entropy(functional_call(net, weights, (x,)), labels).backward()
        gradient = estimator.log_sd_gradient()
        pieces = gradient.split([psi.numel() for psi in state.psi.views.values()])
        silent = [key for key, piece in zip(state.psi.views, pieces, strict=True) if not piece.abs().sum() > 0]
        assert silent == [], name
        if which == "weights":
            assert not estimator.fallbacks()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_what_has_no_formula_gets_one_sample_and_is_counted():
    net = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.ConvTranspose1d(1, 1, 2), nn.LayerNorm(5))
    mu, psi = gaussians(net)
    x = torch.randn(6, 1, 4).expand(6, 1, 4)
    for name, expected in [
        ("exemplar", {"prelu", "conv_transpose1d"}),
        ("flipout", {"prelu", "conv_transpose1d", "layer_norm"}),
        ("local", {"prelu", "conv_transpose1d", "layer_norm"}),
    ]:
        estimator = estimate(name, net, mu, psi)
        run(estimator, net, x)
        assert {function.lstrip("_") for function in estimator.fallbacks()} == expected


def test_a_tied_parameter_has_one_gaussian_and_collects_the_gradients_of_all_its_uses():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4, bias=False)
            self.two = nn.Linear(4, 4, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    net = Tied()
    mu, psi = gaussians(net)
    assert list(mu.views) == ["one.weight"]
    x = torch.randn(3, 4)
    for name in ("shared", "exemplar", "flipout"):
        estimator = estimate(name, net, mu, psi)
        found = run(estimator, net, x)
        found.sum().backward()
        assert estimator.log_sd_gradient().abs().min() > 0
        assert torch.allclose(found, _twice(name, mu, psi, x), atol=1e-5), name


def _twice(name: str, mu: Flat, psi: Flat, x: Tensor) -> Tensor:
    """W_i W_i x_i, with the noise that a single layer gets from an equal generator."""
    layer = nn.Linear(4, 4, bias=False)
    flats = (Flat.copy_of({"weight": flat.views["one.weight"]}) for flat in (mu, psi))
    estimator = estimate(name, layer, *flats)
    columns = torch.stack(
        [run(estimator, layer, x)] + [_again(estimator, layer, unit.expand(3, 4)) for unit in torch.eye(4)]
    )
    weights = columns[1:].permute(1, 2, 0)  # (examples, outputs, inputs)
    return torch.einsum("bij,bj->bi", weights, columns[0])


def _again(estimator, net: nn.Module, x: Tensor) -> Tensor:
    """Another use of the same weights in the same pass."""
    weights = estimator.weights() if isinstance(estimator, Shared) else estimator._weights
    return functional_call(net, dict(weights), (x,))


def test_exemplar_refuses_when_its_samples_do_not_fit(monkeypatch):
    state = MeanFieldState(network(), select(network(), "weights", train_rest=True))
    monkeypatch.setattr(choose.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 64_000}[name])
    choose_estimator("exemplar", state, torch.Generator(), 50)
    with pytest.raises(ConfigError, match="micro_batch to at most 100"):
        choose_estimator("exemplar", state, torch.Generator(), 200)
    monkeypatch.setattr(choose.os, "sysconf", lambda name: 1)
    with pytest.raises(ConfigError, match="Use estimator: shared or flipout"):
        choose_estimator("exemplar", state, torch.Generator(), 200)


def test_noise_of_every_estimator_leaves_the_network_as_it_was():
    net, data = network(), split(20)
    before = {name: value.clone() for name, value in weights_of(net).items()}
    mu, psi = gaussians(net)
    for name in ("shared", *RULES):
        estimator = estimate(name, net, mu, psi)
        run(estimator, net, data.inputs).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in weights_of(net).items())
    assert all(parameter.grad is None for parameter in net.parameters())
