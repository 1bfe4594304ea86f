"""Networks at full size: published counts, torchvision's numbers, logits at 224 pixels, both stems."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from benchmark import ConfigError
from tasks.networks.catalogue import CifarResNet, WideResNet
from tasks.networks.libraries import DenseNet, Timm, Torchvision, VisionTransformers
from tasks.networks.torchvision_names import torchvision_names
from tasks.networks.weight_files import PUBLISHED_BYTES

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
FAMILIES = {
    "resnet": CifarResNet(),
    "wrn": WideResNet(),
    "densenet": DenseNet(),
    "deit": VisionTransformers(),
    "vit": VisionTransformers(),
    "torchvision": Torchvision(),
    "timm": Timm(),
}


def build(name, shape, n_classes, seed=0):
    family = next(family for prefix, family in FAMILIES.items() if name.startswith(prefix))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return family.build(name, shape, n_classes)


def on_meta(name, shape, n_classes):
    with torch.device("meta"):
        return build(name, shape, n_classes)


@pytest.mark.parametrize(
    ("name", "shape", "n_classes", "expected"),
    [
        ("resnet18", CIFAR, 10, 11_164_352),
        ("resnet18", CIFAR, 100, 11_210_432),
        ("resnet50", CIFAR, 100, 23_652_032),
        ("resnet101", CIFAR, 100, 42_591_936),
        ("resnet18", IMAGENET, 1000, 11_678_912),
        ("resnet50", IMAGENET, 1000, 25_502_912),
        ("resnet101", IMAGENET, 1000, 44_442_816),
        ("wrn-28-10", CIFAR, 10, 36_461_232),
        ("wrn-28-10", CIFAR, 100, 36_518_832),
        ("vit_base_patch16_224", IMAGENET, 1000, 86_292_480),
    ],
)
def test_weights_of_convolutions_and_linear_layers_count_as_in_the_papers(name, shape, n_classes, expected):
    layers = [each for each in on_meta(name, shape, n_classes).modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert sum(layer.weight.numel() for layer in layers) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("densenet161", 28_681_000),
        ("deit_tiny_patch16_224", 5_717_416),
        ("deit_small_patch16_224", 22_050_664),
        ("vit_base_patch16_224", 86_567_656),
        ("torchvision:resnet50", 25_557_032),
        ("torchvision:vit_b_16", 86_567_656),
    ],
)
def test_full_size_networks_map_imagenet_images_to_logits_with_the_published_parameters(name, expected):
    network = on_meta(name, IMAGENET, 1000)
    assert network(torch.empty(2, *IMAGENET, device="meta")).shape == (2, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("name", sorted(PUBLISHED_BYTES))
def test_the_stated_size_of_published_weights_is_that_of_the_network(name):
    tensors = [each for each in on_meta(name, IMAGENET, 1000).state_dict().values() if each.is_floating_point()]
    assert sum(each.numel() * each.element_size() for each in tensors) == PUBLISHED_BYTES[name]


@pytest.mark.parametrize(("name", "side"), [("resnet18", 96), ("resnet50", 72)])
def test_above_64_pixels_a_resnet_computes_exactly_what_torchvision_does(name, side):
    own = build(name, (3, side, side), 7)
    oracle = torchvision.models.get_model(name, weights=None, num_classes=7)
    oracle.load_state_dict(own.state_dict())  # the same names, nothing missing and nothing left over
    inputs = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    for train in (True, False):  # the first pass also moves the running statistics
        assert torch.equal(own.train(train)(inputs), oracle.train(train)(inputs))


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [((3, 64, 64), 3), ((3, 32, 64), 3), ((3, 65, 65), 7), ((3, 32, 65), 7), ((1, 224, 224), 7)],
)
def test_the_longer_side_of_the_image_decides_on_the_stem(shape, kernel):
    network = on_meta("resnet34", shape, 5)
    assert network.conv1.weight.shape == (64, shape[0], kernel, kernel)
    assert network(torch.empty(1, *shape, device="meta")).shape == (1, 5)


def test_resnet20_has_its_3x3_stem_at_every_size():
    assert on_meta("resnet20", IMAGENET, 10).conv1.weight.shape == (16, 3, 3, 3)


@pytest.mark.parametrize("name", ["resnet18", "deit_tiny_patch16_224"])
def test_a_training_step_at_224_pixels_reaches_every_parameter(name):
    network = build(name, IMAGENET, 1000)
    generator = torch.Generator().manual_seed(0)
    logits = network(torch.randn(1, *IMAGENET, generator=generator))
    nn.functional.cross_entropy(logits, torch.tensor([3])).backward()
    assert logits.shape == (1, 1000)
    assert [
        key for key, each in network.named_parameters() if each.grad is None or not each.grad.isfinite().all()
    ] == []
    assert sum(each.grad.abs().sum() > 0 for each in network.parameters()) > 0.9 * len(list(network.parameters()))


def test_the_names_read_from_source_are_those_that_torchvision_registers():
    assert torchvision_names() == set(torchvision.models.list_models(torchvision.models))


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_b_32", "googlenet", "maxvit_t", "swin_v2_t", "squeezenet1_1"])
def test_networks_of_torchvision_adapt_to_channels_classes_and_size(name):
    network = on_meta(f"torchvision:{name}", (1, 224, 224), 7)
    assert network.training
    assert network(torch.empty(2, 1, 224, 224, device="meta")).shape == (2, 7)
    assert not any(getattr(module, "inplace", False) is True for module in network.modules())


def test_a_network_of_torchvision_keeps_its_own_initialisation_for_three_channels_and_takes_of_it_for_one():
    torch.manual_seed(0)
    oracle = torchvision.models.resnet18(num_classes=4).state_dict()
    colour, grey = (build("torchvision:resnet18", (c, 32, 32), 4).state_dict() for c in (3, 1))
    assert all(torch.equal(colour[key], oracle[key]) for key in oracle)
    assert torch.equal(grey["conv1.weight"], oracle["conv1.weight"][:, :1])


def test_torchvision_networks_are_named_with_what_they_take():
    with pytest.raises(ConfigError, match=r"no architecture 'resnt18'.*Did you mean 'resnet18'"):
        Torchvision().check("torchvision:resnt18")
    with pytest.raises(ConfigError, match="expected 'torchvision:' and a name"):
        Torchvision().check("torchvision:")
    with pytest.raises(ConfigError, match=r"alexnet' cannot take 3x8x8 images(.|\n)*Possible sizes.* 64x64"):
        on_meta("torchvision:alexnet", (3, 8, 8), 10)


@pytest.mark.parametrize("family", [CifarResNet(), VisionTransformers(), DenseNet()])
def test_a_family_knows_its_own_names_only(family):
    with pytest.raises(ConfigError, match="network 'resnet19' is unknown"):
        family.check("resnet19")
