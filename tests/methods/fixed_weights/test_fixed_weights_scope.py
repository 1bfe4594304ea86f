"""Which parameters are fixed: the numbers of known networks, biases, attention, tied ones once."""

from __future__ import annotations

import pytest
import torch
from small_problems import small_with_token as network
from torch import nn

from benchmark import ConfigError, Diverged
from benchmark.registry import NETWORKS
from methods.finetuning.select import layer_biases
from methods.fixed_weights.scope import scope_of
from methods.fixed_weights.state import FixingState

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
TABLE = [
    # network, inputs, classes, parameters, weights, biases, norms and tokens
    ("timm:resnet18", IMAGENET, 1000, 11_689_512, 11_678_912, 1_000, 9_600),
    ("resnet18", CIFAR, 10, 11_173_962, 11_164_352, 10, 9_600),
    ("resnet18", CIFAR, 100, 11_220_132, 11_210_432, 100, 9_600),
    ("timm:resnet34", IMAGENET, 1000, 21_797_672, 21_779_648, 1_000, 17_024),
    ("timm:resnet50", IMAGENET, 1000, 25_557_032, 25_502_912, 1_000, 53_120),
    ("resnet50", CIFAR, 10, 23_520_842, 23_467_712, 10, 53_120),
    ("resnet50", CIFAR, 100, 23_705_252, 23_652_032, 100, 53_120),
    ("timm:densenet161", IMAGENET, 1000, 28_681_000, 28_460_064, 1_000, 219_936),
    ("wrn-28-10", CIFAR, 10, 36_479_194, 36_461_232, 10, 17_952),
    ("wrn-28-10", CIFAR, 100, 36_536_884, 36_518_832, 100, 17_952),
    ("wrn-16-4", CIFAR, 10, 2_748_890, 2_745_264, 10, 3_616),
    ("timm:deit_small_patch16_224", IMAGENET, 1000, 22_050_664, 21_912_576, 42_856, 19_200 + 76_032),
    ("timm:deit_tiny_patch16_224", IMAGENET, 1000, 5_717_416, 5_647_872, 21_928, 9_600 + 38_016),
]


def sizes(net: nn.Module, names: tuple[str, ...]) -> int:
    return sum(net.get_parameter(name).numel() for name in names)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "total", "weights", "biases", "rest"),
    TABLE,
    ids=[f"{row[0].removeprefix('timm:')}-{row[2]}" for row in TABLE],
)
def test_weights_biases_and_rest_of_known_networks_are_those_of_the_table(
    name, shape, classes, total, weights, biases, rest
):
    with torch.device("meta"):
        net = NETWORKS.family(name)[1].build(name, shape, classes)
    both, alone = scope_of(net, "weights_and_biases"), scope_of(net, "weights")
    assert sizes(net, both.bayesian) == weights + biases
    assert sizes(net, alone.bayesian) == weights
    assert sizes(net, both.trained) == rest
    assert total == weights + biases + rest


def test_the_scope_is_in_the_network_s_order_and_the_rest_is_what_is_left():
    net = network()
    scope = scope_of(net, "weights_and_biases")
    assert scope.bayesian == ("conv.weight", "conv.bias", "head.weight", "head.bias")
    assert scope.trained == ("token", "norm.weight", "norm.bias")
    assert scope_of(net, "weights").trained == ("token", "conv.bias", "norm.weight", "norm.bias", "head.bias")


def test_projections_of_attention_are_fixed_and_its_key_and_value_tokens_are_not():
    net = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    scope = scope_of(net, "weights_and_biases")
    assert scope.bayesian == ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    assert scope.trained == ("bias_k", "bias_v")


def test_a_tied_tensor_counts_once_and_embeddings_only_where_they_are_tied_to_a_layer():
    net = nn.ModuleDict({"embed": nn.Embedding(5, 4), "other": nn.Embedding(5, 4), "head": nn.Linear(4, 5)})
    net["head"].weight = net["embed"].weight
    assert scope_of(net, "weights_and_biases").bayesian == ("embed.weight", "head.bias")
    assert scope_of(net, "weights").trained == ("other.weight", "head.bias")


def test_a_tied_bias_counts_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].bias = net[0].bias
    assert layer_biases(net) == ("0.bias",)


def test_frozen_parameters_are_fixed_and_a_frozen_rest_is_not_trained():
    net = network()
    net.conv.weight.requires_grad_(False)
    net.norm.bias.requires_grad_(False)
    scope = scope_of(net, "weights_and_biases")
    assert "conv.weight" in scope.bayesian
    assert scope.frozen == ("norm.bias",)


def test_a_network_without_layers_is_refused():
    with pytest.raises(ConfigError, match="no weight of a convolutional, linear or attention layer"):
        scope_of(nn.Sequential(nn.BatchNorm2d(3)), "weights_and_biases")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LazyLinear(3), "'weight' is not initialised yet"),
        (nn.Linear(3, 3, dtype=torch.complex64), "'weight' is torch.complex64"),
    ],
    ids=["lazy", "complex"],
)
def test_weights_that_are_no_real_numbers_are_refused(layer, message):
    with pytest.raises(ConfigError, match=message):
        scope_of(layer, "weights_and_biases")


def test_the_flat_weights_are_the_network_s_own_and_its_tensors_are_left_alone():
    net = network()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    state = FixingState(net, scope_of(net, "weights_and_biases"), 7)
    assert torch.equal(state.weights.mu, torch.cat([before[name].flatten() for name in state.mu.views]))
    assert all(torch.equal(state.mean()[name], tensor) for name, tensor in before.items())
    state.weights.mu.add_(1)
    assert torch.equal(state.mean()["head.bias"], before["head.bias"] + 1)
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


def test_a_nan_weight_names_its_tensor():
    net = network()
    with torch.no_grad():
        net.head.weight[0, 0] = torch.nan
    with pytest.raises(Diverged, match=r"base weights of 'head\.weight' is nan"):
        FixingState(net, scope_of(net, "weights_and_biases"), 7)


def test_a_mask_marks_the_weights_of_its_tensors():
    net = network()
    state = FixingState(net, scope_of(net, "weights_and_biases"), 7)
    mask = dict(zip(state.mu.views, state.mask(["conv.bias", "head.bias"]).split([72, 8, 24, 3]), strict=True))
    assert {name for name, piece in mask.items() if bool(piece.all())} == {"conv.bias", "head.bias"}
    assert int(torch.cat(list(mask.values())).sum()) == 11
