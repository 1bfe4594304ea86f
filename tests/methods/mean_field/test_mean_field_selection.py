"""Which parameters become Bayesian, and which networks are refused."""

from __future__ import annotations

import logging

import pytest
import timm
import torch
from mean_field_cases import SmallConvNet, network
from small_problems import split
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from benchmark import ConfigError
from methods.finetuning.config import NamePatterns
from methods.finetuning.probe import keep_used
from methods.finetuning.select import select, select_nothing
from tasks.networks.catalogue import CifarResNet, WideResNet


def names(net: nn.Module) -> list[str]:
    return [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize(
    ("architecture", "points"),
    [
        ("resnet10t", {"conv1.1.weight", "bn1.bias", "fc.bias"}),
        ("vit_tiny_patch16_224", {"cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias"}),
        ("convnext_atto", {"stem.1.weight", "stages.0.blocks.0.gamma", "head.fc.bias"}),
    ],
)
def test_weights_are_the_matrices_and_filters_of_layers(architecture, points):
    net = timm.create_model(architecture, num_classes=5)
    found = select(net, "weights", train_rest=True)
    layers = (nn.Linear, nn.Conv2d)
    expected = [f"{path}.weight" for path, module in net.named_modules() if isinstance(module, layers)]
    assert sorted(found.bayesian) == sorted(expected)
    assert points <= set(found.trained)
    assert sorted(found.bayesian + found.trained) == sorted(names(net))
    assert found.frozen == ()


def test_other_selections_follow_their_names():
    net = network()
    assert select(net, "all", train_rest=True).bayesian == tuple(names(net))
    head = select(net, "head", train_rest=False)
    assert head.bayesian == ("head.weight", "head.bias")
    assert head.frozen == ("conv.weight", "norm.weight", "norm.bias")
    chosen = select(net, NamePatterns(include=(".*weight",), exclude=("norm.*",)), train_rest=True)
    assert chosen.bayesian == ("conv.weight", "head.weight")
    assert chosen.trained == ("norm.weight", "norm.bias", "head.bias")
    assert select_nothing(net).trained == tuple(names(net))


def test_a_tied_parameter_is_one_parameter():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raw = nn.Parameter(torch.randn(36, 36))
            self.layer, self.head = nn.Linear(36, 36), nn.Linear(36, 3)
            self.layer.weight = self.raw

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x.flatten(1) @ self.raw))

    # Registered first as a raw parameter: one of its owners is a linear layer, and that is enough.
    assert select(Tied(), "weights", train_rest=True).bayesian == ("raw", "head.weight")


def test_frozen_parameters_are_never_bayesian_and_naming_one_is_an_error():
    net = network()
    net.conv.weight.requires_grad_(False)
    found = select(net, "weights", train_rest=True)
    assert found.bayesian == ("head.weight",)
    assert found.frozen == ("conv.weight",)
    with pytest.raises(ConfigError, match=r"conv\.weight.*does not require gradients"):
        select(net, NamePatterns(include=("conv.weight", "head.weight")), train_rest=True)


def test_a_pattern_without_match_names_the_nearest_parameter():
    with pytest.raises(ConfigError, match=r"'haed.weight' matches no parameter.*head\.weight"):
        select(network(), NamePatterns(include=("haed.weight",)), train_rest=True)


def test_an_empty_selection_is_an_error():
    with pytest.raises(ConfigError, match="no Bayesian parameter"):
        select(nn.Sequential(nn.LayerNorm(4)), "weights", train_rest=True)
    with pytest.raises(ConfigError, match="no Bayesian parameter"):
        select(network(), NamePatterns(include=("head.*",), exclude=("head.*",)), train_rest=True)


def test_parameters_that_cannot_carry_a_gaussian_are_named():
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ConfigError, match=r"'1\.weight' is not initialised"):
        select(lazy, "weights", train_rest=True)
    odd = network()
    odd.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ConfigError, match=r"'phase' is torch\.complex64"):
        select(odd, "weights", train_rest=True)


def test_noise_goes_to_the_tensors_underneath_a_weight_norm(caplog):
    net = nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(36, 3)))
    with caplog.at_level(logging.WARNING, "bnnbench"):
        found = select(net, "weights", train_rest=True)
    assert found.bayesian == ("1.parametrizations.weight.original0", "1.parametrizations.weight.original1")
    assert "parametrised" in caplog.text
    assert keep_used(net, found, split(20), 0) == found


def test_parameters_that_the_forward_pass_ignores_are_frozen_with_a_warning(caplog):
    net = network()
    net.spare = nn.Linear(4, 4)
    chosen = select(net, "weights", train_rest=True)
    with caplog.at_level(logging.WARNING, "bnnbench"):
        found = keep_used(net, chosen, split(20), 0)
    assert found.bayesian == ("conv.weight", "head.weight")
    assert found.frozen == ("spare.weight", "spare.bias")
    assert "spare.weight" in caplog.text


def test_a_network_that_ignores_replaced_weights_is_refused():
    class Cached(SmallConvNet):
        def __init__(self) -> None:
            super().__init__()
            self.copies = [parameter.detach().clone() for parameter in self.parameters()]

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :8] @ self.copies[3].T

    net = Cached()
    with pytest.raises(ConfigError, match="ignores replaced weights"):
        keep_used(net, select(net, "weights", train_rest=True), split(20), 0)


def test_every_parameter_of_a_vision_transformer_is_used():
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, in_chans=1, num_classes=3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    chosen = select(net, "all", train_rest=True)
    data = split(16)
    data = type(data)(data.inputs.repeat(1, 1, 6, 6)[..., :32, :32], data.labels)
    assert keep_used(net, chosen, data, 0) == chosen
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_the_paper_s_selection_is_weights_and_biases_of_the_layers_it_replaces():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.PReLU(), nn.Flatten(), nn.LayerNorm(32))
    net.append(nn.Linear(32, 3))
    found = select(net, "paper", train_rest=True)
    assert found.bayesian == ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "5.weight", "5.bias")
    assert found.trained == ("4.weight", "4.bias")


@pytest.mark.parametrize(
    ("architecture", "count", "first", "left_out"),
    [
        ("resnet18", 1, "layer4.1.conv1.weight", "layer4.0.conv1.weight"),
        ("resnet18", 2, "layer4.0.conv1.weight", "layer3.1.conv1.weight"),
        ("vit_tiny_patch16_224", 1, "blocks.11.norm1.weight", "blocks.10.norm1.weight"),
        ("convnext_atto", 1, "stages.3.blocks.1.gamma", "stages.3.blocks.0.gamma"),
    ],
)
def test_last_blocks_are_those_before_the_head_as_timm_groups_them(architecture, count, first, left_out):
    net = timm.create_model(architecture, num_classes=5)
    found = select(net, f"last_blocks:{count}", train_rest=True)
    head = {name for name in names(net) if name.startswith(("fc.", "head."))}
    assert found.bayesian[0] == first
    assert left_out in found.trained
    assert head <= set(found.trained)


@pytest.mark.parametrize(("made", "first"), [("resnet20", "layer3.2.conv1"), ("wrn-16-1", "layer3.1.bn1")])
def test_the_suite_s_own_networks_tell_their_blocks(made, first):
    family = CifarResNet() if made.startswith("resnet") else WideResNet()
    net = family.build(made, (1, 8, 8), 3)
    found = select(net, "last_blocks:1", train_rest=True)
    assert found.bayesian[0] == f"{first}.weight"
    assert not any(name.startswith("fc") for name in found.bayesian)


def test_a_network_without_blocks_is_taken_by_the_first_component_of_names_and_too_many_are_refused():
    assert select(network(), "last_blocks:1", train_rest=True).bayesian == ("norm.weight", "norm.bias")
    with pytest.raises(ConfigError, match=r"'last_blocks:3' asks for more than the 2 blocks"):
        select(network(), "last_blocks:3", train_rest=True)


def test_a_network_without_trainable_weights_is_told_to_be_unfrozen():
    with pytest.raises(ConfigError, match=r"none of the 5 parameters.*requires_grad_\(True\)"):
        select(network().requires_grad_(False), "weights", train_rest=True)


def test_the_second_name_of_a_tied_parameter_is_answered_with_the_first():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    net[1].weight = net[0].weight
    with pytest.raises(ConfigError, match=r"'1.weight', which is tied to '0.weight'"):
        select(net, NamePatterns(include=(r"1\.weight", r"2\.weight")), train_rest=True)
    assert select(net, NamePatterns(include=(r".*\.weight",)), train_rest=True).bayesian == ("0.weight", "2.weight")
