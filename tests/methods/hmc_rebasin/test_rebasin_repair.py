"""REPAIR: channels of a mean network get the statistics that they have in the samples."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from small_problems import small_with_token, split
from torch import Tensor, nn

from benchmark import ConfigError, Split, copy_of, forward, weights_of
from methods.hmc_rebasin.repair import average_channels, channel_statistics, layers_before_the_head, repair

DATA = split(300)
HEADS = ("7.", "head.")


def perceptron() -> nn.Module:
    sizes = [36, 48, 48, 48, 3]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def chain() -> nn.Module:
    """Convolutions one after the other."""
    layers: list[nn.Module] = []
    for fan_in in (1, 24, 24):
        layers += [nn.Conv2d(fan_in, 24, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3))


class Convolutional(nn.Module):
    """With a skip connection, a depthwise convolution without bias, and no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.head = nn.Linear(16, 3)  # before the block in the module, after it in the forward pass
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.mix = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.mix(self.depthwise(x).relu()).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


@cache
def trained(build, seed: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network that has learnt the classes of `DATA`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build()
        optimiser = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(DATA.inputs), DATA.labels).backward()
            optimiser.step()
    return net, copy_of(weights_of(net))


def loss(net: nn.Module, weights: dict[str, Tensor]) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(forward(net, weights, DATA.inputs), DATA.labels))


def merged(build) -> tuple[nn.Module, list[dict[str, Tensor]], dict[str, Tensor]]:
    """Two networks that never met and their mean: the worst case of cancelled signals."""
    (net, a), (_, b) = trained(build, 0), trained(build, 1)
    return net, [a, b], mean_of(a, b)


def mean_of(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (a[name] + b[name]) / 2 for name in a}


def outputs_of(net: nn.Module, weights: dict[str, Tensor], path: str) -> Tensor:
    found: list[Tensor] = []
    hook = net.get_submodule(path).register_forward_hook(lambda *call: found.append(call[-1]))
    forward(net, weights, DATA.inputs)
    hook.remove()
    return found[0]


@torch.no_grad()
def matched(net: nn.Module, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    """b with the units of every hidden layer of a chain ordered as those of a whose outputs correlate most."""
    b, layers = copy_of(b), [path for path, _ in net.named_modules() if f"{path}.weight" in a]
    for path, following in pairwise(layers):
        units = a[f"{path}.bias"].numel()
        both = torch.cat([outputs_of(net, weights, path).movedim(1, -1).reshape(-1, units) for weights in (a, b)], 1)
        correlation = torch.corrcoef(both.T)[:units, units:]
        order = torch.from_numpy(linear_sum_assignment(correlation.nan_to_num().numpy(), maximize=True)[1])
        for name in (f"{path}.weight", f"{path}.bias"):
            b[name] = b[name][order]
        b[f"{following}.weight"] = b[f"{following}.weight"][:, order]
    return b


@pytest.mark.parametrize("build", [perceptron, Convolutional])
def test_channels_of_the_merged_network_get_the_statistics_of_the_samples(build):
    net, ends, middle = merged(build)
    goal = average_channels(net, ends, DATA, batch_size=100)
    before = channel_statistics(net, middle, list(goal), DATA)
    found = repair(net, middle, goal, DATA, batch_size=100)
    after = channel_statistics(net, found.applied(middle), list(goal), DATA)
    assert found.gain.keys() == set(middle) - {name for name in middle if name.startswith(HEADS)}
    assert found.shift.keys() == {name for name in found.gain if name.endswith("bias")}
    for path, wanted in goal.items():
        live = after[path].std > 1e-6 * wanted.std
        assert int(live.sum()) > len(live) // 2
        assert torch.allclose(after[path].std[live], wanted.std[live], rtol=1e-3, atol=1e-5), path
        if f"{path}.bias" in middle:
            assert torch.allclose(after[path].mean, wanted.mean, atol=1e-4), path
    assert max(float((1 - before[path].std / goal[path].std).mean()) for path in goal) > 0.1


@pytest.mark.parametrize(("build", "seeds"), [(perceptron, (2, 4)), (chain, (2,))])
def test_merges_of_matched_networks_have_a_lower_loss_when_they_are_repaired(build, seeds):
    plain, repaired = 0.0, 0.0
    for seed in seeds:
        (net, a), (_, b) = trained(build, seed), trained(build, seed + 1)
        alike = matched(net, a, b)
        assert loss(net, alike) == pytest.approx(loss(net, b), abs=1e-4)
        middle = mean_of(a, alike)
        goal = average_channels(net, [a, alike], DATA)
        plain += loss(net, middle)
        repaired += loss(net, repair(net, middle, goal, DATA).applied(middle))
    assert repaired < 0.9 * plain


def test_goals_are_plain_averages_over_the_samples():
    net, ends, _ = merged(perceptron)
    goal = average_channels(net, ends, DATA)
    each = [channel_statistics(net, weights, ["1"], DATA)["1"] for weights in ends]
    hidden = [DATA.inputs.flatten(1) @ weights["1.weight"].T + weights["1.bias"] for weights in ends]
    for one, outputs in zip(each, hidden, strict=True):
        assert torch.allclose(one.mean, outputs.mean(0).double(), atol=1e-5)
        assert torch.allclose(one.std, outputs.std(0, correction=0).double(), atol=1e-5)
    assert torch.allclose(goal["1"].std, (each[0].std + each[1].std) / 2)
    with pytest.raises(ValueError, match="at least one"):
        average_channels(net, [], DATA)


def test_layers_are_taken_in_the_order_of_running_without_the_head():
    net = Convolutional()
    assert layers_before_the_head(net, DATA) == ["stem", "depthwise", "mix"]
    assert not any(module._forward_hooks for module in net.modules())


def test_a_network_that_has_its_statistics_already_stays_as_it_is():
    net, weights = trained(perceptron, 0)
    found = repair(net, weights, average_channels(net, [weights], DATA), DATA)
    assert all(torch.allclose(gain, torch.ones(48), atol=1e-5) for gain in found.gain.values())
    assert all(torch.allclose(shift, torch.zeros(48), atol=1e-5) for shift in found.shift.values())


def test_a_channel_without_variation_keeps_its_scale_and_gets_its_mean():
    net, weights = trained(perceptron, 0)
    dead = copy_of(weights)
    dead["1.weight"][5] = 0
    found = repair(net, dead, average_channels(net, [weights], DATA), DATA)
    assert float(found.gain["1.weight"][5]) == 1
    mended = channel_statistics(net, found.applied(dead), ["1"], DATA)["1"]
    wanted = channel_statistics(net, weights, ["1"], DATA)["1"]
    assert float(mended.mean[5]) == pytest.approx(float(wanted.mean[5]), abs=1e-5)
    assert all(bool(tensor.isfinite().all()) for tensor in found.applied(dead).values())


def test_networks_with_running_statistics_are_refused():
    net = small_with_token()
    few = Split(DATA.inputs[:20], DATA.labels[:20])
    with pytest.raises(ConfigError, match="Set repair: false"):
        repair(net, weights_of(net), average_channels(net, [weights_of(net)], few), few)
