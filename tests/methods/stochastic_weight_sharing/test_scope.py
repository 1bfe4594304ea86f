"""Which weights are shared: how many in known networks, in what order, tied ones once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark import ConfigError, Diverged, weights_of
from benchmark.registry import NETWORKS
from methods.finetuning.flat import Flat
from methods.finetuning.select import layer_weights, select_these
from methods.stochastic_weight_sharing.scope import varying

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)


def built(name: str, shape: tuple[int, int, int], classes: int, device: str = "meta") -> nn.Module:
    with torch.device(device):
        return NETWORKS.family(name)[1].build(name, shape, classes)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "weights"),
    [
        ("resnet18", CIFAR, 10, 11_164_352),
        ("resnet18", CIFAR, 100, 11_210_432),
        ("resnet50", CIFAR, 100, 23_652_032),
        ("resnet20", CIFAR, 10, 268_336),
        ("wrn-28-10", CIFAR, 10, 36_461_232),
        ("wrn-28-10", CIFAR, 100, 36_518_832),
        ("wrn-16-4", CIFAR, 10, 2_745_264),
        ("wrn-16-4", CIFAR, 100, 2_768_304),
        ("timm:resnet18", IMAGENET, 1000, 11_678_912),
        ("timm:resnet50", IMAGENET, 1000, 25_502_912),
        ("timm:resnet101", IMAGENET, 1000, 44_442_816),
        ("timm:vit_base_patch16_224", IMAGENET, 1000, 86_292_480),
        ("timm:deit_small_patch16_224", IMAGENET, 1000, 21_912_576),
        ("timm:deit_tiny_patch16_224", IMAGENET, 1000, 5_647_872),
    ],
)
def test_known_networks_have_the_published_number_of_weights_in_scope(name, shape, classes, weights):
    network = built(name, shape, classes)
    assert sum(network.get_parameter(each).numel() for each in layer_weights(network)) == weights


@pytest.mark.parametrize("name", ["resnet20", "wrn-10-1", "deit-micro"])
def test_the_flat_view_is_in_the_networks_order_and_gives_every_weight_back(name):
    network = built(name, (1, 8, 8), 10, "cpu")
    chosen = layer_weights(network)
    assert list(chosen) == [each for each, _ in network.named_parameters() if each in chosen]
    own = {each: weights_of(network)[each] for each in chosen}
    flat = Flat.copy_of(own)
    assert torch.equal(flat.flat, torch.cat([tensor.reshape(-1) for tensor in own.values()]))
    assert all(torch.equal(flat.views[each], own[each]) for each in chosen)


class Tied(nn.Module):
    """Two names for one matrix, attention with biases of three dimensions, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.LayerNorm(4)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))


def test_tied_weights_count_once_and_embeddings_tokens_and_biases_of_attention_not_at_all():
    assert layer_weights(Tied()) == ("attention.in_proj_weight", "attention.out_proj.weight", "first.weight")


def test_tied_weights_come_back_under_both_names():
    network, other = Tied(), Tied()
    flat = Flat.copy_of({name: network.get_parameter(name).detach() for name in layer_weights(network)})
    with torch.no_grad():
        for name, view in flat.views.items():
            other.get_parameter(name).copy_(view)
    assert torch.equal(other.second.weight, network.second.weight)
    assert other.second.weight is other.first.weight


def test_a_network_without_such_weights_is_an_error_that_lists_what_it_has():
    with pytest.raises(ConfigError, match=r"no weight of a convolutional.*weight, bias"):
        layer_weights(nn.LayerNorm(4))


def test_the_rest_is_trained_but_for_frozen_parameters():
    network = Tied()
    network.norm.weight.requires_grad_(False)
    selection = select_these(network, layer_weights(network))
    assert "norm.weight" in selection.frozen
    assert {"norm.bias", "token", "embedding.weight", "attention.bias_k"} <= set(selection.trained)
    names = [name for name, _ in network.named_parameters()]
    assert sorted(selection.bayesian + selection.trained + selection.frozen) == sorted(names)


def test_constant_tensors_are_left_out_and_if_all_are_that_is_an_error(caplog):
    assert varying(("a", "b"), {"a": 0.0, "b": 1.0}) == ("b",)
    assert "a" in caplog.text
    with pytest.raises(ConfigError, match="constant"):
        varying(("a",), {"a": 0.0})


def test_no_deviations_and_broken_ones_are_errors_that_say_so():
    with pytest.raises(ConfigError, match="source has no standard deviation"):
        varying((), {})
    with pytest.raises(Diverged, match=r"'b' is nan"):
        varying(("a", "b"), {"a": 1.0, "b": float("nan")})
