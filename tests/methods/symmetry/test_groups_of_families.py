"""Relabelling by the groups of every family leaves the function as it is, and there are as many as there should be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from group_cases import CASES, LARGE, change, small_distilled
from timm.layers import set_fused_attn

from benchmark import weights_of
from methods.symmetry.check import check_groups, moving, random_weights
from methods.symmetry.discover import groups_of
from tasks.networks import deit, resnet, wrn


@pytest.mark.parametrize("name", CASES)
def test_relabelling_all_groups_leaves_the_logits_as_they_are(name):
    build, shape, count = CASES[name]
    network = build()
    groups = groups_of(network)
    assert len(groups.sizes) == count
    assert check_groups(network, groups, shape) <= 1e-10
    assert change(network, groups, shape, torch.float32) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_and_buffer_is_labelled_axis_by_axis(name):
    with torch.device("meta"):
        network = CASES[name][0]()
    groups = groups_of(network)
    tensors = weights_of(network)
    assert list(groups.axes) == list(tensors)
    for tensor_name, tensor in tensors.items():
        shape = groups.views.get(tensor_name, tensor.shape)
        for axis, size in zip(groups.axes[tensor_name], shape, strict=True):
            parts = (axis,) if isinstance(axis, str) else axis or (size,)
            assert size == sum(part if isinstance(part, int) else groups.sizes[part] for part in parts)


@pytest.mark.parametrize("name", [name for name in CASES if name not in LARGE])
def test_the_taps_give_activations_whose_entries_move_with_the_units(name):
    build, shape, _ = CASES[name]
    network = build().double().eval()
    groups = groups_of(network)
    heads = {attention.group for attention in groups.attentions}
    assert groups.taps.keys() == groups.sizes.keys() - heads
    generator = torch.Generator().manual_seed(0)
    weights, moves = random_weights(network, generator), moving(groups, generator)
    inputs = torch.randn(2, *shape, generator=generator).double()
    before = read(network, groups, weights, inputs)
    after = read(network, groups, groups.permuted(weights, moves), inputs)
    for group, values in before.items():
        tap = groups.taps[group]
        assert values.shape[tap.axis] == groups.sizes[group]
        expected = values.index_select(tap.axis, moves[group])
        assert (after[group] - expected).abs().max() <= 1e-9 * values.abs().max()
        assert values.std() > 0


def read(network, groups, weights, inputs):
    """Group -> what its tap gives in one forward pass with these weights."""
    values, hooks = {}, []
    for group, tap in groups.taps.items():

        def hook(module, given, result, group=group, tap=tap):
            tensor = given[0] if tap.side == "input" else result
            values[group] = tensor.narrow(tap.axis, tap.start, groups.sizes[group]).clone()

        hooks.append(network.get_submodule(tap.module).register_forward_hook(hook))
    with torch.no_grad():
        torch.func.functional_call(network, weights, (inputs,))
    for hook in hooks:
        hook.remove()
    return values


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: timm.create_model("resnet34"), 20),
        (lambda: wrn.WideResNet(28, 10, 3, 10), 16),
        (lambda: deit.build("deit_tiny", (3, 32, 32), 10), 25),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224"), 25),
    ],
)
def test_large_networks_have_the_expected_number_of_groups_and_need_no_memory(build, count):
    with torch.device("meta"):
        network = build()
    assert len(groups_of(network).sizes) == count


def test_a_padded_shortcut_continues_the_stream_and_appends_a_group():
    groups = groups_of(resnet.resnet20(3, 10))
    assert {name: size for name, size in groups.sizes.items() if name.startswith("S")} == {"S1": 16, "S2": 16, "S3": 32}
    assert groups.axes["layer3.0.conv1.weight"][:2] == ("layer3.0.h1", ("S1", "S2"))
    assert groups.axes["layer3.0.conv2.weight"][:2] == (("S1", "S2", "S3"), "layer3.0.h1")
    assert groups.axes["fc.weight"] == (None, ("S1", "S2", "S3"))
    taps = {group: (groups.taps[group].module, groups.taps[group].start) for group in ("S1", "S2", "S3")}
    assert taps == {"S1": ("layer1.2", 0), "S2": ("layer2.2", 16), "S3": ("layer3.2", 32)}


def test_a_norm_in_front_of_a_wide_block_is_labelled_by_the_stream_that_comes_in():
    groups = groups_of(wrn.WideResNet(16, 4, 3, 10))
    assert groups.axes["layer2.0.bn1.weight"] == ("S1",)
    assert groups.axes["layer2.0.shortcut.weight"][:2] == ("S2", "S1")
    assert groups.axes["layer1.0.bn1.running_var"] == ("S0",)
    assert groups.axes["bn.weight"] == ("S3",)


def test_a_bottleneck_stem_has_a_stream_of_its_own():
    with torch.device("meta"):
        network = resnet.resnet50(3, 10)
    sizes = groups_of(network).sizes
    assert [sizes[f"S{number}"] for number in range(5)] == [64, 256, 512, 1024, 2048]


@pytest.mark.parametrize("fused", [True, False])
def test_key_biases_do_not_matter_where_the_groups_say_so(fused):
    set_fused_attn(fused)
    try:
        network = small_distilled().double().eval()
    finally:
        set_fused_attn(True)
    weights = weights_of(network)
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    generator = torch.Generator().manual_seed(0)
    for attention in groups_of(network).attentions:
        assert attention.key_bias
        bias = changed[attention.qkv_bias].view(3, attention.heads, attention.width)
        bias[1] = 3 * torch.randn(bias[1].shape, generator=generator)
    inputs = torch.randn(2, 3, 16, 16, generator=generator).double()
    with torch.no_grad():
        before = torch.func.functional_call(network, weights, (inputs,))
        after = torch.func.functional_call(network, changed, (inputs,))
    assert (before - after).abs().max() <= 1e-10


def test_norms_of_queries_and_keys_forbid_rotations_and_make_key_biases_matter():
    plain, normed = (groups_of(CASES[name][0]()).attentions[0] for name in ("deit-micro", "norms of q and k"))
    assert (plain.rotates_qk, plain.key_bias) == (True, True)
    assert (normed.rotates_qk, normed.key_bias) == (False, False)
    assert (plain.module, plain.group, plain.heads, plain.width) == ("blocks.0.attn", "H0", 4, 16)


def test_the_stream_of_a_transformer_cannot_be_relabelled_in_one_block_only():
    build, shape, _ = CASES["deit-micro"]
    network = build()
    groups = groups_of(network)
    axes = {
        name: tuple("own" if axis == "R" else axis for axis in axes) if name.startswith("blocks.1.") else axes
        for name, axes in groups.axes.items()
    }
    wrong = replace(groups, axes=axes, sizes={**groups.sizes, "own": groups.sizes["R"]})
    perm = {"own": torch.arange(groups.sizes["R"]).roll(1)}
    assert change(network, wrong, shape, permutations=perm) > 1e-3
    with pytest.raises(ValueError, match=r"Alone, these groups do: 'R' .* 'own'"):
        check_groups(network, wrong, shape)
