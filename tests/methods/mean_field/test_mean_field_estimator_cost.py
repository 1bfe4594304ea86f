"""Cost and gradient variance of the estimators, beside what a user would take instead. Prints what it measures."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from mean_field_cases import recommended_step
from paired_timing import ratios, threads
from sgd_step import sgd_step
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from methods.finetuning.flat import Flat
from methods.mean_field.adapter import BayesianNetwork
from methods.mean_field.estimators.choose import RULES, Name
from methods.mean_field.estimators.ruled import Ruled
from methods.mean_field.estimators.shared import Shared
from tasks.networks.catalogue import WideResNet

pytestmark = pytest.mark.benchmarks

Train = Callable[[], object]


@pytest.fixture(autouse=True)
def _two_threads():
    with threads(2):
        yield


def ours(name: Name, base: nn.Module, x: Tensor, y: Tensor) -> Train:
    """A step of the suite."""
    step, _ = recommended_step(base, len(y), name)
    return lambda: step(x, y)


def deterministic(base: nn.Module, x: Tensor, y: Tensor) -> Train:
    """What the base run does."""
    step = sgd_step(base)
    return lambda: step(x, y)


def own_loop(base: nn.Module, x: Tensor, y: Tensor) -> Train:
    """`BayesianNetwork` with torch's optimisers."""
    bayes = BayesianNetwork(base, l2=5e-4, n_data=50_000)
    means = torch.optim.SGD([*bayes.mean.parameters(), *bayes.points.parameters()], lr=1e-3, momentum=0.9, fused=True)
    log_sds = torch.optim.Adam(bayes.log_sd.parameters(), lr=1e-4, eps=1e-12, fused=True)

    def step() -> None:
        cross_entropy(bayes(x), y).backward()
        bayes.add_prior_gradients()
        for optimiser in (means, log_sds):
            optimiser.step()
            optimiser.zero_grad()

    return step


def bayesian_torch(kind: str, base: nn.Module, x: Tensor, y: Tensor) -> Train:
    """bayesian-torch: layers replaced, the divergence differentiated."""
    from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn, get_kl_loss

    net = copy.deepcopy(base).train()
    settings = {"prior_mu": 0.0, "prior_sigma": 0.2, "posterior_mu_init": 0.0, "posterior_rho_init": -5.0}
    dnn_to_bnn(net, {**settings, "type": kind, "moped_enable": True, "moped_delta": 0.1})
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        (cross_entropy(net(x), y) + get_kl_loss(net) / 50_000).backward()
        optimiser.step()

    return step


def torchbnn(base: nn.Module, x: Tensor, y: Tensor) -> Train:
    """torchbnn: its layers in the place of the network's, its divergence differentiated."""
    import torchbnn as bnn

    net = copy.deepcopy(base).train()
    for path, module in list(net.named_modules()):
        parent, _, name = path.rpartition(".")
        bias = getattr(module, "bias", None) is not None
        if isinstance(module, nn.Conv2d):
            new = bnn.BayesConv2d(
                0, 0.1, module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding,
                bias=bias,
            )  # fmt: skip
        elif isinstance(module, nn.Linear):
            new = bnn.BayesLinear(0, 0.1, module.in_features, module.out_features, bias=bias)
        else:
            continue
        setattr(net.get_submodule(parent), name, new)
    divergence = bnn.BKLLoss(reduction="sum", last_layer_only=False)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        (cross_entropy(net(x), y) + divergence(net) / 50_000).backward()
        optimiser.step()

    return step


def test_training_steps_of_a_wide_resnet():
    pytest.importorskip("bayesian_torch", reason="make benchmarks installs it")
    pytest.importorskip("torchbnn", reason="make benchmarks installs it")
    torch.manual_seed(0)
    base = WideResNet().build("wrn-10-2", (3, 32, 32), 10)
    x, y = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    calls = {
        "wrn-10-2, 16 images, deterministic": deterministic(base, x, y),
        "shared": ours("shared", base, x, y),
        "shared, BayesianNetwork": own_loop(base, x, y),
        **{name: ours(name, base, x, y) for name in RULES},
        "bayesian-torch, reparameterisation (shared)": bayesian_torch("Reparameterization", base, x, y),
        "bayesian-torch, flipout": bayesian_torch("Flipout", base, x, y),
        "torchbnn (shared)": torchbnn(base, x, y),
    }
    _, found = ratios(calls, rounds=15)
    assert found["shared"] <= 1.3
    assert found["flipout"] <= 2.2
    assert found["shared"] < found["bayesian-torch, reparameterisation (shared)"]
    assert found["shared"] < found["torchbnn (shared)"]


def test_training_steps_of_a_vision_transformer():
    pytest.importorskip("bayesian_torch", reason="make benchmarks installs it")
    torch.manual_seed(0)
    base = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    x, y = torch.randn(4, 3, 224, 224), torch.randint(10, (4,))
    calls = {
        "vit_tiny, 4 images, deterministic": deterministic(base, x, y),
        "shared": ours("shared", base, x, y),
        "shared, BayesianNetwork": own_loop(base, x, y),
        **{name: ours(name, base, x, y) for name in RULES},
        "bayesian-torch, reparameterisation (shared)": bayesian_torch("Reparameterization", base, x, y),
        "bayesian-torch, flipout": bayesian_torch("Flipout", base, x, y),
    }
    _, found = ratios(calls, rounds=8)
    assert found["shared"] <= 1.3
    assert found["flipout"] <= 2.2


@pytest.mark.parametrize(
    ("inputs", "classes", "least", "most"), [(0.1, 1, 20, 65), (1.0, 5, 0.9, 3)], ids=["agreeing", "disagreeing"]
)
def test_gradient_variance_on_a_small_convolutional_network(inputs, classes, least, most):
    """Variance of d loss / d mu over draws, summed over weights, relative to `exemplar`: for `shared` between 1, where
    the gradients of examples have nothing in common, and the batch size, where they agree."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    mu = Flat.copy_of({name: value.detach() for name, value in net.named_parameters()})
    psi = Flat.like(mu)
    psi.flat.fill_(-4.0)
    x, y = 1 + inputs * torch.randn(64, 3, 8, 8), torch.randint(classes, (64,))

    def variance(name: str, draws: int = 200) -> float:
        generator = torch.Generator().manual_seed(1)
        if name == "shared":
            estimator = Shared(mu, psi, generator)
        else:
            estimator = Ruled(mu, psi, lambda each: RULES[name](each, generator))
        gradients = []
        for _ in range(draws):
            estimator.begin()
            cross_entropy(functional_call(net, dict(estimator.weights()), (x,)), y).backward()
            gradients.append(torch.cat([gradient.flatten() for gradient in estimator.mean_gradients()]).clone())
            for leaf in estimator.leaves():
                leaf.grad = None
        return float(torch.stack(gradients).var(0).sum())

    found = {name: variance(name) for name in ("exemplar", "shared", "flipout", "local")}
    print(f"\ngradient variance, relative to exemplar, batch 64, {classes} classes")
    for name, value in found.items():
        print(f"  {name}: {value / found['exemplar']:.3f}")
    assert least < found["shared"] / found["exemplar"] < most
    assert 0.7 < found["flipout"] / found["exemplar"] < 2
    assert found["local"] < found["exemplar"]
