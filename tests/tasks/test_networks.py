"""Every network family: known parameter counts, shapes, gradients, seeding, functional calls and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from benchmark.errors import ConfigError
from tasks.networks.catalogue import CifarResNet, Mlp, SmallDeiT, Timm, WideResNet
from tasks.networks.deit import patch_size
from tasks.networks.resnet import PaddedShortcut
from tasks.networks.timm_names import timm_names

FAMILIES = {
    "resnet": CifarResNet(),
    "wrn": WideResNet(),
    "deit": SmallDeiT(),
    "mlp": Mlp(),
    "timm": Timm(),
}
SMALL = ["resnet20", "wrn-10-1", "deit-micro", "mlp-16", "mlp-16-8-tanh"]
EVERY = [*SMALL, "resnet18", "resnet34", "resnet50", "wrn-16-4", "deit_tiny", "deit_small", "timm:resnet18"]


def family_of(name):
    return next(family for prefix, family in FAMILIES.items() if name.startswith(prefix))


def build(name, shape=(1, 8, 8), n_classes=10, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return family_of(name).build(name, shape, n_classes)


def count(name, shape, n_classes):
    with torch.device("meta"):
        network = family_of(name).build(name, shape, n_classes)
    return sum(parameter.numel() for parameter in network.parameters())


def count_weights(name, shape, n_classes):
    """Parameters with two axes or more in convolutions and linear layers."""
    with torch.device("meta"):
        network = family_of(name).build(name, shape, n_classes)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return sum(layer.weight.numel() for layer in layers)


CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)


@pytest.mark.parametrize(
    ("name", "shape", "n_classes", "expected"),
    [
        ("resnet20", CIFAR, 10, 269_722),
        ("resnet18", CIFAR, 10, 11_173_962),
        ("resnet18", CIFAR, 100, 11_220_132),
        ("resnet34", CIFAR, 10, 21_282_122),
        ("resnet50", CIFAR, 10, 23_520_842),
        ("resnet50", CIFAR, 100, 23_705_252),
        ("wrn-28-10", CIFAR, 10, 36_479_194),
        ("wrn-28-10", CIFAR, 100, 36_536_884),
        ("wrn-16-4", CIFAR, 10, 2_748_890),
        ("deit_tiny", IMAGENET, 1000, 5_717_416),
        ("deit_small", IMAGENET, 1000, 22_050_664),
        ("timm:deit_tiny_patch16_224", IMAGENET, 1000, 5_717_416),
        ("timm:deit_small_patch16_224", IMAGENET, 1000, 22_050_664),
        ("timm:resnet18", IMAGENET, 1000, 11_689_512),
        ("timm:resnet34", IMAGENET, 1000, 21_797_672),
        ("timm:resnet50", IMAGENET, 1000, 25_557_032),
        ("timm:densenet161", IMAGENET, 1000, 28_681_000),
        # By hand: 3072 * 64 + 64 + 64 * 32 + 32 + 32 * 10 + 10.
        ("mlp-64-32", CIFAR, 10, 199_082),
        ("mlp-64-64-tanh", (1, 8, 8), 10, 8_970),
    ],
)
def test_parameter_counts_are_the_published_ones(name, shape, n_classes, expected):
    assert count(name, shape, n_classes) == expected


@pytest.mark.parametrize(
    ("name", "n_classes", "expected"),
    [
        ("resnet20", 10, 268_336),
        ("resnet18", 10, 11_164_352),
        ("resnet18", 100, 11_210_432),
        ("resnet50", 10, 23_467_712),
        ("resnet50", 100, 23_652_032),
        ("wrn-28-10", 10, 36_461_232),
        ("wrn-28-10", 100, 36_518_832),
        ("wrn-16-4", 10, 2_745_264),
        ("wrn-16-4", 100, 2_768_304),
    ],
)
def test_weight_counts_of_convolutions_and_linear_layers_are_the_published_ones(name, n_classes, expected):
    assert count_weights(name, CIFAR, n_classes) == expected


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 7, 7), (2, 6, 10), (1, 1, 1)])
@pytest.mark.parametrize("name", SMALL)
def test_small_networks_map_any_image_shape_to_logits(name, shape):
    network = build(name, shape, n_classes=5)
    assert network(torch.randn(3, *shape)).shape == (3, 5)


@pytest.mark.parametrize("name", EVERY)
def test_every_network_takes_digits_and_each_parameter_gets_a_gradient(name):
    network = build(name)
    generator = torch.Generator().manual_seed(1)
    # Away from the initialisation, where timm's zeroed last norms stop the gradients of whole blocks.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    logits = network(torch.randn(4, 1, 8, 8, generator=generator))
    (logits * torch.randn(4, 10, generator=generator)).sum().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []


@pytest.mark.parametrize("name", [*SMALL, "timm:resnet18"])
def test_the_seed_alone_decides_the_initialisation(name):
    first, again, other = (build(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention under vmap, on the CPU
@pytest.mark.parametrize("name", [*SMALL, "timm:resnet18"])
def test_a_stack_of_weights_can_be_mapped_over(name):
    networks = [build(name, seed=seed).eval() for seed in (0, 1)]
    parameters, buffers = stack_module_state(networks)
    inputs = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mapped = vmap(lambda p, b: functional_call(networks[0], (p, b), (inputs,)))(parameters, buffers)
    expected = torch.stack([network(inputs) for network in networks])
    assert torch.allclose(mapped, expected, atol=1e-4, rtol=1e-4)  # float32, other order of summation


@pytest.mark.parametrize("name", ["resnet20", "wrn-10-1", "timm:resnet18"])
def test_channels_last_inputs_and_weights_give_the_same_logits(name):
    network = build(name).eval()
    inputs = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = network(inputs)
    network = network.to(memory_format=torch.channels_last)
    assert torch.allclose(network(inputs.to(memory_format=torch.channels_last)), expected, atol=1e-4, rtol=1e-4)


def test_convolutions_start_with_he_deviations():
    weights = build("wrn-16-4").layer3[1].conv1.weight  # 256 * 9 outputs per input
    assert weights.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert weights.mean().abs() < 1e-4


def test_the_padded_shortcut_subsamples_and_appends_zero_channels():
    x = torch.arange(18.0).view(1, 2, 3, 3)
    out = PaddedShortcut(2, 4, stride=2)(x)
    assert out[0, :2].tolist() == [[[0, 2], [6, 8]], [[9, 11], [15, 17]]]
    assert out[0, 2:].abs().max() == 0


def test_a_pre_activation_shortcut_sees_the_activated_input():
    block = build("wrn-10-1").layer2[0].eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block(x), block.shortcut(torch.relu(block.bn1(x))))


@pytest.mark.parametrize(
    ("side", "patch"), [(1, 1), (7, 1), (8, 2), (16, 2), (28, 4), (32, 4), (48, 6), (64, 8), (96, 12), (224, 16)]
)
def test_patches_suit_the_image(side, patch):
    assert patch_size(side, side) == patch


def test_patches_divide_both_sides_of_an_oblong_image():
    assert patch_size(32, 48) == 4
    assert patch_size(6, 10) == 2


def test_an_image_without_a_sensible_patch_is_refused():
    with pytest.raises(ConfigError, match=r"227x227 image has no common patch size .* leaves 51529"):
        build("deit-micro", (3, 227, 227))


@pytest.mark.parametrize(
    ("name", "reason", "suggestion"),
    [
        ("wrn-15-4", "depth 15 is not 6n\\+4", "wrn-16-4"),
        ("wrn-4-1", "depth 4 is not 6n\\+4", "wrn-10-1"),
        ("wrn-16-x", "expected 'wrn', a depth and a width", "wrn-16-4"),
        ("wrn-16-0", "expected 'wrn', a depth and a width", "wrn-16-1"),
        ("wrn-016-4", "expected 'wrn', a depth and a width", "wrn-16-4"),
        ("wrn28-10", "expected 'wrn', a depth and a width", "wrn-28-10"),
        ("wrn", "expected 'wrn', a depth and a width", "wrn-16-4"),
        ("mlp-", "at least one number of hidden units", "mlp-64"),
        ("mlp-0", "at least one number of hidden units", "mlp-64"),
        ("mlp-64-relu", "at least one number of hidden units", "mlp-64"),
        ("mlp-64--32-tanh", "at least one number of hidden units", "mlp-64-32-tanh"),
        ("mlp-tanh", "at least one number of hidden units", "mlp-64-tanh"),
        ("resnet81", "is unknown", "resnet18"),
        ("deit_tny", "is unknown", "deit_tiny"),
        ("timm:resnt50", "timm has no architecture 'resnt50'", "resnet50"),
        ("timm:", "expected 'timm:' and a name", "timm:resnet18"),
        ("timm:resnet50.a1_in1k", "the tag 'a1_in1k' names pretrained weights", "timm:resnet50"),
    ],
)
def test_bad_spellings_are_refused_with_a_legal_neighbour(name, reason, suggestion):
    family = family_of(name)
    with pytest.raises(ConfigError, match=reason) as refused:
        family.check(name)
    assert f"'{name}'" in str(refused.value)
    assert f"Did you mean '{suggestion}'?" in str(refused.value)
    assert "legal: " in str(refused.value)
    with pytest.raises(ConfigError, match=reason):
        family.build(name, (1, 8, 8), 10)


@pytest.mark.parametrize("name", ["wrn-15-4", "wrn-16-x", "wrn28-10", "wrn", "mlp-", "mlp-0", "mlp-tanh", "resnet81"])
def test_the_suggested_spelling_is_legal(name):
    family = family_of(name)
    with pytest.raises(ConfigError) as refused:
        family.check(name)
    family.check(str(refused.value).split("Did you mean '")[1].split("'?")[0])


@pytest.mark.parametrize("name", EVERY)
def test_legal_spellings_pass_the_check(name):
    family_of(name).check(name)


def test_the_names_read_from_source_are_those_that_timm_registers():
    import timm

    assert timm_names() == set(timm.list_models())


@pytest.mark.parametrize("shape", [(1, 32, 32), (4, 48, 64)])
@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_resnet", "timm:convnext_atto"])
def test_timm_networks_adapt_to_channels_classes_and_size(name, shape):
    network = build(name, shape, n_classes=7)
    assert network.training
    assert network(torch.randn(2, *shape)).shape == (2, 7)
    assert not any(getattr(module, "inplace", False) is True for module in network.modules())


def test_building_a_timm_network_leaves_running_statistics_at_their_start():
    network = build("timm:test_resnet", (3, 32, 32))
    assert all(buffer.eq(0).all() for name, buffer in network.named_buffers() if name.endswith("running_mean"))


def test_a_timm_network_that_cannot_take_the_image_names_sizes_that_it_takes():
    with pytest.raises(ConfigError, match=r"'timm:test_vit' cannot take 1x30x30 images: .*") as refused:
        build("timm:test_vit", (1, 30, 30))
    assert "Possible sizes, of those tried: 32x32, 64x64" in str(refused.value)
