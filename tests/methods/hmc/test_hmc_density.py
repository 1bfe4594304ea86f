"""The density and its gradient against one network at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from hmc_targets import digits_like, oracle_density, scales_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.ops import StochasticDepth

from benchmark import ConfigError, Split, weights_of
from methods.hmc.density import Density


class Normed(nn.Module):
    """Convolution, BatchNorm, tokens, LayerNorm, dropout, a frozen layer: what perceptrons lack."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.tokens = nn.Linear(6, 5)
        self.after = nn.LayerNorm(5)
        self.drop = nn.Dropout(0.5)
        self.depth = StochasticDepth(0.5, "row")
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.head = nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().flatten(2).transpose(1, 2)  # (n, 16, 6)
        x = self.depth(self.drop(self.after(self.tokens(x)).tanh()))
        out: Tensor = self.head(self.frozen(x.mean(1)))
        return out


def normed(n: int = 40) -> tuple[nn.Module, Split]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Normed()
    labels = torch.randint(3, (n,), generator=generator)
    return network.train(), Split(torch.randn(n, 1, 6, 6, generator=generator), labels, augment=lambda x, _: x * 0)


def one_by_one(network: nn.Module, split: Split, states: Tensor, s: float, temperature: float) -> list[Tensor]:
    """Gradient, log likelihood and log prior of each state by plain autograd, with batch statistics."""
    rows = []
    for state in states:
        own = copy.deepcopy(network).to(states.dtype).eval()
        for module in own.modules():
            module.training = isinstance(module, nn.BatchNorm2d)
        free = [value for value in own.parameters() if value.requires_grad]
        torch.nn.utils.vector_to_parameters(state, free)
        fit = -cross_entropy(own(split.inputs.to(states.dtype)), split.labels, reduction="sum")
        prior = -0.5 * sum((value / s).square().sum() for value in free)
        gradient = torch.autograd.grad((fit + prior) / temperature, free)
        rows.append((torch.cat([each.flatten() for each in gradient]), fit.detach(), prior.detach()))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("make", [digits_like, normed])
def test_gradients_of_all_chains_are_those_of_each_network_by_itself(make):
    network, split = make()
    density = Density(network, split, scales_of(network, 0.7), temperature=2.0)
    states = 0.3 * torch.randn(3, density.parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = one_by_one(network, split, states, 0.7, 2.0)
    for _ in range(2):  # recorded, then replayed
        for found, wanted in zip(density.gradient(states), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    single = density.gradient(states.float())
    assert [each.dtype for each in single] == [torch.float32, torch.float64, torch.float64]
    for found, wanted in zip(single, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_log_density_and_gradient_are_those_of_the_oracle():
    density, oracle = oracle_density()
    found = density.gradient(torch.tensor([oracle["inputs"]["w0"]], dtype=torch.float64))
    expected = oracle["expected"]
    assert float(found.log_likelihood) == pytest.approx(expected["log_likelihood"], abs=1e-6)
    assert float(found.log_prior) == pytest.approx(expected["log_prior"], abs=1e-6)
    torch.testing.assert_close(found.gradient[0], torch.tensor(expected["gradient"]).double(), rtol=0, atol=1e-6)


def test_data_in_parts_give_the_same_density():
    network, split = digits_like(100)
    states = torch.randn(2, 1210, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = Density(network, split, scales_of(network)).gradient(states)
    parts = Density(network, split, scales_of(network), data_chunk=33).gradient(states)  # 33, 33, 33, 1
    for found, wanted in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_network_is_left_as_it_was():
    network, split = normed()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    density = Density(network, split, scales_of(network))
    for _ in range(2):
        density.gradient(density.flatten(weights_of(network))[None] + 0.1)
    assert [module.training for module in network.modules()] == modes
    assert type(network.head) is nn.Linear
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_states_are_trainable_parameters_in_the_order_of_the_network():
    network, split = normed()
    density = Density(network, split, scales_of(network))
    state = density.flatten(weights_of(network))
    assert density.names == tuple(name for name, value in network.named_parameters() if value.requires_grad)
    assert len(state) == density.parameters == 6 * 9 + 6 + 12 + 35 + 10 + 15
    views = density.weights(torch.stack([state, -state]))
    for name in density.names:
        own = weights_of(network)[name]
        assert torch.equal(views[name], torch.stack([own, -own])), name
        assert torch.equal(density.weights(state)[name], own), name
    with pytest.raises(ValueError, match=r"'head\.weight'"):
        density.flatten({name: value for name, value in weights_of(network).items() if name != "head.weight"})


def test_parts_of_the_data_are_refused_where_the_batch_is_the_data():
    network, split = normed()
    with pytest.raises(ConfigError, match="BatchNorm"):
        Density(network, split, scales_of(network), data_chunk=10)


def test_a_network_that_looks_at_values_runs_unrecorded():
    class Looks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)) * (2.0 if float(x.sum()) > 0 else 1.0)

    class Stubborn(nn.Flatten):
        def forward(self, x: Tensor) -> Tensor:
            if torch.fx.experimental.proxy_tensor.get_proxy_mode() is not None:
                raise RuntimeError("recorded")
            return super().forward(x)

    _, split = digits_like(30)
    for network in (Looks(64, 10), nn.Sequential(Stubborn(), nn.Linear(64, 10))):
        density = Density(network, split, scales_of(network))
        states = torch.randn(2, density.parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = one_by_one(network, split, states, 1.0, 1.0)
        torch.testing.assert_close(density.gradient(states).gradient, expected[0], rtol=1e-11, atol=1e-11)


def test_a_scale_that_is_missing_is_named():
    network, split = digits_like(10)
    with pytest.raises(ValueError, match=r"'3\.bias'"):
        Density(network, split, {name: 1.0 for name in scales_of(network) if name != "3.bias"})
