"""What has no groups, groups that are wrong, frozen units, and groups that a network declares itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from group_cases import CASES, Gated, vit
from torch import nn

from benchmark import ConfigError, weights_of
from methods.symmetry import discover
from methods.symmetry.check import check_groups
from methods.symmetry.discover import Family, groups_of, register_family
from methods.symmetry.errors import UnsupportedArchitecture
from methods.symmetry.groups import PermutationGroups
from tasks.networks import mlp, resnet


def grouped():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8, 2))


def group_norm(groups):
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(groups, 8), nn.Flatten(), nn.Linear(8, 2))


def tied():
    network = nn.Sequential(*(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh()))
    network[4].weight = network[2].weight
    network.append(nn.Linear(4, 2))
    return network


def with_child(network, path, child):
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, child)
    return network


REFUSED = {
    "densenet": (lambda: timm.create_model("densenet121"), "no family has a network of these modules: features"),
    "resnext": (lambda: timm.create_model("resnext50_32x4d"), r"'layer1.0.conv2' is a grouped convolution \(32 groups"),
    "grouped": (grouped, r"'1' is a grouped convolution \(2 groups of 4 channels\): only depthwise"),
    "group norm": (lambda: group_norm(4), "'1' is GroupNorm with 4 groups on 8 interchangeable channels"),
    "tied": (tied, "'4.weight' is used, or tied to '2.weight'.* one group would be on two axes"),
    "squeeze and excite": (lambda: timm.create_model("seresnet18"), "'layer1.0.se', a SEModule, is no part of"),
    "deep stem": (lambda: timm.create_model("resnet18d"), "the stem 'conv1' is a Sequential, not one convolution"),
    "two pools": (
        lambda: timm.create_model("resnet18", global_pool="catavgmax"),
        "'fc.weight' has 1024 entries where 512 units come in",
    ),
    "other shortcut": (
        lambda: with_child(resnet.resnet20(3, 4), "layer2.0.downsample", nn.Upsample(2)),
        "the shortcut 'layer2.0.downsample' is a Upsample, not a projection",
    ),
    "narrow padding": (
        lambda: with_child(resnet.resnet20(3, 4), "layer2.0.downsample", resnet.PaddedShortcut(16, 24, 2)),
        "'layer2.0.downsample' appends 8 channels to 16 of 32",
    ),
    "attention pooling": (lambda: vit(global_pool="map"), "'attn_pool', a AttentionPoolLatent, is no part"),
    "norm of attention": (lambda: vit(scale_attn_norm=True), "'blocks.0.attn.norm', a LayerNorm, is no part of plain"),
    "gated mlp": (lambda: vit(mlp_layer=timm.layers.GluMlp), "'blocks.0.mlp' makes 96 units and uses 48: gated"),
    "parallel": (
        lambda: vit(block_fn=timm.models.vision_transformer.ParallelScalingBlock),
        "'blocks.0.in_norm",
    ),
    "relative positions": (
        lambda: timm.create_model("beit_base_patch16_224"),
        "is none of the tensors that|is no part",
    ),
    "no flatten": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(8, 2)),
        "'1' follows a convolution without `Flatten`",
    ),
    "soft-max inside": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Softmax(1), nn.Linear(8, 2)),
        "'1' is a Softmax, which is no layer of a plain network",
    ),
    "twice": (
        lambda: (lambda layer: nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(4, 2)))(nn.Linear(4, 4)),
        "'2.weight' is used, or tied to '0.weight', in two places",
    ),
    "parametrised": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2)),
        "'0.weight' is no parameter but made of others",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_family_knows_is_refused_with_the_reason(name):
    build, reason = REFUSED[name]
    with torch.device("meta"):
        network = build()
    with pytest.raises(UnsupportedArchitecture, match=reason) as caught:
        groups_of(network)
    assert isinstance(caught.value, ConfigError)
    assert "known families" in str(caught.value)
    assert "permutation_groups()" in str(caught.value)


@pytest.mark.parametrize("groups", [1, 8])
def test_group_norms_of_one_or_all_channels_are_symmetric(groups):
    network = group_norm(groups)
    assert check_groups(network, groups_of(network), (3, 1, 1)) <= 1e-10


def test_a_missing_entry_makes_the_check_fail_and_names_the_tensor():
    network = CASES["resnet20"][0]()
    groups = groups_of(network)
    for missing in ("layer2.0.bn1.running_mean", "fc.bias"):
        axes = {name: axes for name, axes in groups.axes.items() if name != missing}
        with pytest.raises(ValueError, match=f"say nothing about '{missing}'"):
            check_groups(network, replace(groups, axes=axes), (3, 8, 8))


@pytest.mark.parametrize("name", ["bn1.running_var", "layer1.1.bn2.bias", "layer3.2.conv2.weight"])
def test_an_axis_without_its_label_makes_the_check_fail(name):
    network = CASES["resnet20"][0]()
    groups = groups_of(network)
    axes = {**groups.axes, name: (None,) * len(groups.axes[name])}
    with pytest.raises(ValueError, match="relabelling changes the logits by"):
        check_groups(network, replace(groups, axes=axes), (3, 8, 8))


def test_relabelling_classes_makes_the_check_fail_and_names_the_group():
    network = mlp.build((6,), "relu", (1, 4, 4), 3)
    groups = groups_of(network)
    axes = {**groups.axes, "head.weight": ("classes", "fc1"), "head.bias": ("classes",)}
    wrong = replace(groups, axes=axes, sizes={**groups.sizes, "classes": 3})
    with pytest.raises(ValueError, match=r"Alone, these groups do: 'classes' \("):
        check_groups(network, wrong, (1, 4, 4))


def test_a_forward_pass_that_is_not_what_modules_suggest_is_found_out():
    class Shuffled(nn.Sequential):
        """Passes on neighbours: the third layer reads the units of the first, shifted."""

        def __init__(self):
            super().__init__(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
            self[1].register_forward_hook(lambda module, given, result: result + 0.5 * result.roll(1, dims=1))

    network = Shuffled()
    with pytest.raises(ValueError, match=r"'0' \("):
        check_groups(network, groups_of(network), (4,))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"0.weight": ("h",)}, r"'0.weight' has 2 axes \(6, 4\), the groups label 1"),
        ({"0.weight": (None, "h")}, r"axis 1 of '0.weight' has 4 entries, its groups h have 6"),
        ({"0.weight": ("g", None)}, "of the group 'g', which has no size"),
        ({"strange": (None,)}, "know a tensor 'strange' that the network has not"),
    ],
)
def test_axes_that_do_not_fit_are_named(axes, message):
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    right = groups_of(network).axes
    labels = {name: tuple("h" if axis == "0" else axis for axis in own) for name, own in right.items()}
    with pytest.raises(ValueError, match=message):
        check_groups(network, PermutationGroups({"h": 6}, {**labels, **axes}), (4,))


def test_the_check_leaves_network_and_generators_as_they_were():
    network = CASES["resnet20"][0]().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    check_groups(network, groups_of(network), (3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in weights_of(network).values())


def test_a_network_without_values_cannot_be_checked():
    with torch.device("meta"):
        network = CASES["mlp"][0]()
    with pytest.raises(ValueError, match="meta device"):
        check_groups(network, groups_of(network), (1, 8, 8))


def test_the_units_of_frozen_parameters_stay_where_they_are():
    network = CASES["resnet20"][0]()
    network.layer2[1].conv1.weight.requires_grad_(False)
    groups = groups_of(network)
    assert "layer2.1.h1" not in groups.sizes
    assert not {"S1", "S2"} & groups.sizes.keys()
    assert groups.axes["layer3.0.conv2.weight"][:2] == ((16, 16, "S3"), "layer3.0.h1")
    assert groups.axes["layer1.0.conv1.weight"][:2] == ("layer1.0.h1", None)
    assert check_groups(network, groups, (3, 8, 8)) <= 1e-10


def test_frozen_attention_has_no_symmetries():
    network = CASES["deit-micro"][0]()
    network.blocks[0].attn.proj.weight.requires_grad_(False)
    groups = groups_of(network)
    assert list(groups.sizes) == ["M0", "H1", "M1"]
    assert [attention.group for attention in groups.attentions] == ["H1"]


def test_a_tied_tensor_is_labelled_once():
    network = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 2))
    network[3].weight = network[1].weight
    groups = groups_of(network)
    assert "3.weight" not in groups.axes
    assert check_groups(network, groups, (4,)) <= 1e-10


class Declaring(nn.Sequential):
    """4 inputs, 6 hidden units, 2 classes, and whatever it is given as declaration."""

    def __init__(self, **entries):
        super().__init__(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        right = {"0.weight": ("h", None), "0.bias": ("h",), "2.weight": (None, "h"), "2.bias": (None,)}
        self.declaration = {**right, **{name.replace("_", "."): entry for name, entry in entries.items()}}

    def permutation_groups(self):
        return {name: entry for name, entry in self.declaration.items() if entry != "left out"}


def test_a_networks_own_declaration_has_precedence_and_sizes_follow():
    assert groups_of(Declaring()).sizes == {"h": 6}
    split = Declaring(
        **{"0_weight": (["a", 2, "b"], None), "0_bias": (("a", 2, "b"),), "2_weight": (None, ("a", 2, "b"))}
    )
    with pytest.raises(ValueError, match="sizes do not follow"):
        groups_of(split)
    gated = groups_of(Gated())
    assert gated.sizes == {"channel": 4, "hidden": 6}
    assert gated.views["gate.weight"] == (6, 4, 36)


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ({"2_bias": "left out"}, ValueError, "say nothing about '2.bias'"),
        ({"2_wieght": (None,)}, ValueError, r"no tensor '2.wieght'. Did you mean '2.weight'\?"),
        ({"0_weight": ("h",)}, ValueError, r"'0.weight' has shape \(6, 4\), the entries are \('h',\): one per axis"),
        ({"0_weight": (None, "h")}, ValueError, "has (4|6) entries, not those of"),
        ({"0_weight": {"view": (5, 4), "axes": (None, None)}}, ValueError, r"cannot be read in the shape \(5, 4\)"),
        ({"0_weight": {"view": (6, 2, 2), "axes": ("h", "x", "x")}}, UnsupportedArchitecture, "'x' is on two axes"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(entries, error, message):
    with pytest.raises(error, match=message):
        groups_of(Declaring(**entries))


def test_a_declaration_of_other_symmetries_than_the_network_has_is_found_out():
    wrong = Declaring(**{"0_weight": {"view": (6, 4), "axes": ("h", None)}, "0_bias": (None,)})
    with pytest.raises(ValueError, match=r"Alone, these groups do: 'h'"):
        check_groups(wrong, groups_of(wrong), (4,))


def test_a_registered_family_is_asked_first(monkeypatch):
    monkeypatch.setattr(discover, "FAMILIES", dict(discover.FAMILIES))
    axes = {"0.weight": ("own", None), "0.bias": ("own",), "2.weight": (None, "own"), "2.bias": (None,)}
    ours = PermutationGroups({"own": 6}, axes)
    register_family(Family("ours", "a test", lambda network: ours if len(network) == 3 else None))
    assert groups_of(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))) is ours
    assert list(groups_of(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))).sizes) == ["0"]
