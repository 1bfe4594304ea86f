"""Files of weights of other programs: layouts, prefixes, refusals, the classifier, positions, normalisation."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmark import ConfigError
from tasks.networks import timm_adapter
from tasks.networks.checkpoints import read, weights_for
from tasks.networks.published import IMAGENET_MEAN, IMAGENET_STD
from tasks.networks.resnet import BasicBlock, Bottleneck, ProjectionShortcut, ResNet, resnet20
from tasks.networks.wrn import WideResNet


def seeded(make, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
    for name, buffer in network.named_buffers():  # away from 0 and 1, so that a lost statistic shows
        if name.endswith("running_mean"):
            buffer.normal_(generator=torch.Generator().manual_seed(seed))
    return network.eval()


def basic(n_classes=5):
    return ResNet(BasicBlock, (1, 2), 8, ProjectionShortcut, 3, n_classes)


def deep(n_classes=5):
    return ResNet(Bottleneck, (1, 2), 8, ProjectionShortcut, 3, n_classes)


def wide(n_classes=5):
    return WideResNet(10, 1, 3, n_classes)


def kuangliu(name):
    return re.sub(r"^fc\.", "linear.", name.replace(".downsample.", ".shortcut."))


def weiaicunzai(name):
    name = re.sub(r"^bn1\.", "conv1.1.", re.sub(r"^conv1\.", "conv1.0.", name))
    name = re.sub(r"^layer(\d)", lambda match: f"conv{int(match[1]) + 1}_x", name)
    name = name.replace(".downsample.", ".shortcut.")
    inner = r"(_x\.\d+)\.(conv|bn)(\d)\."
    return re.sub(inner, lambda m: f"{m[1]}.residual_function.{3 * (int(m[3]) - 1) + (m[2] == 'bn')}.", name)


def xternalz(name):
    name = re.sub(r"^bn\.", "bn1.", name)
    return re.sub(r"^layer(\d)\.", r"block\1.layer.", name.replace(".shortcut.", ".convShortcut."))


def same(name):
    return name


def loaded(path, network):
    network.load_state_dict(weights_for("ours", path, network), strict=False)
    return network


def logits(network):
    return network(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("make", "layout", "a_name"),
    [
        (basic, same, "layer2.0.downsample.1.running_mean"),
        (basic, kuangliu, "layer2.0.shortcut.0.weight"),
        (deep, kuangliu, "linear.bias"),
        (basic, weiaicunzai, "conv3_x.1.residual_function.4.bias"),
        (deep, weiaicunzai, "conv2_x.0.residual_function.7.running_var"),
        (wide, xternalz, "block1.layer.0.bn1.weight"),
        (wide, xternalz, "block2.layer.0.convShortcut.weight"),
        (lambda: resnet20(3, 5), same, "layer3.2.bn2.weight"),
    ],
)
def test_a_file_in_a_known_layout_gives_the_same_logits(tmp_path, make, layout, a_name):
    original = seeded(make, 1)
    state = {layout(name): tensor for name, tensor in original.state_dict().items()}
    assert a_name in state
    torch.save(state, tmp_path / "w.pth")
    other = seeded(make, 2)
    assert not torch.equal(logits(other), logits(original))
    assert torch.equal(logits(loaded(tmp_path / "w.pth", other)), logits(original))


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "encoder.net.", "backbone."]
)
@pytest.mark.parametrize("holder", [None, "state_dict", "model_state_dict", "ema"])
def test_wrappers_and_holders_are_looked_through(tmp_path, prefix, holder):
    original = seeded(basic, 1)
    state = {prefix + kuangliu(name): tensor for name, tensor in original.state_dict().items()}
    content = state if holder is None else {"epoch": 3, "optimizer": {"lr": 0.1}, holder: state}
    torch.save(content, tmp_path / "w.ckpt")
    assert torch.equal(logits(loaded(tmp_path / "w.ckpt", seeded(basic, 2))), logits(original))


def test_half_precision_safetensors_become_float32(tmp_path):
    original = seeded(wide, 1)
    save_file({name: tensor.half() for name, tensor in original.state_dict().items()}, tmp_path / "w.safetensors")
    weights = weights_for("ours", tmp_path / "w.safetensors", wide())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.equal(weights["layer1.0.conv1.weight"], original.layer1[0].conv1.weight.half().float())
    assert not any(name.endswith("num_batches_tracked") for name in weights)


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    torch.save({"state_dict": basic().state_dict(), "args": Hostile(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="Python objects beside tensors") as refused:
        read(tmp_path / "w.pth")
    assert "write the tensors alone" in str(refused.value)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_truncated_file_says_that_it_cannot_be_read(tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    state = basic().state_dict()
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match=r"w\.\w+ cannot be read as weights .*bytes(.|\n)*Copy it anew"):
        read(path)


def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"holds no state dict: keys epoch, loss"):
        read(tmp_path / "w.pth")


def test_two_networks_in_one_file_are_not_mixed(tmp_path):
    state = basic().state_dict()
    both = {f"model.{name}": tensor for name, tensor in state.items()} | {f"net.{name}": t for name, t in state.items()}
    torch.save(both, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"more than one tensor for 'conv1.weight': model.conv1.weight, net.conv1"):
        weights_for("ours", tmp_path / "w.pth", basic())


def test_what_does_not_fit_is_listed_with_both_shapes(tmp_path):
    state = basic().state_dict()
    state["conv1.weight"] = torch.zeros(8, 3, 7, 7)
    del state["layer1.0.bn2.bias"]
    state |= {f"extra.{index}": torch.zeros(2, index) for index in range(13)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError) as refused:
        weights_for("resnet18", tmp_path / "w.pth", basic())
    lines = [" ".join(line.split()) for line in str(refused.value).splitlines()]
    assert lines[0].startswith("network 'resnet18': the weights in ")
    assert lines[1:7] == [
        "name in the file in the network",
        "1 of another shape:",
        "conv1.weight 8x3x7x7 8x3x3x3",
        "1 missing in the file:",
        "layer1.0.bn2.bias - 8",
        "13 left over in the file:",
    ]
    assert [line for line in lines if line.startswith("extra.")] == [
        f"extra.{index} 2x{index} -" for index in range(10)
    ]
    assert "... 3 more" in lines


def test_a_biased_wide_resnet_of_another_kind_is_refused_not_half_loaded(tmp_path):
    state = {name.replace("fc.", "linear."): tensor for name, tensor in wide().state_dict().items()}
    torch.save(state | {"conv1.bias": torch.zeros(16)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"left over(.|\n)*conv1.bias"):
        weights_for("wrn-10-1", tmp_path / "w.pth", wide())


def test_a_classifier_of_other_classes_keeps_the_networks_own_and_says_so(tmp_path):
    original, network = seeded(lambda: basic(100), 1), seeded(lambda: basic(5), 2)
    own = network.fc.weight.clone()
    torch.save({kuangliu(name): tensor for name, tensor in original.state_dict().items()}, tmp_path / "w.pth")
    with pytest.warns(
        UserWarning, match=r"classifier keeps its initialisation: 'fc.weight' is 100x16 in w.pth and 5x16 here"
    ):
        loaded(tmp_path / "w.pth", network)
    assert torch.equal(network.fc.weight, own)
    assert torch.equal(network.layer2[1].bn2.running_mean, original.layer2[1].bn2.running_mean)


def vit(side, n_classes=5):
    return timm_adapter.build("timm:test_vit", "test_vit", (3, side, side), n_classes)


def test_positions_of_another_grid_are_resampled(tmp_path):
    original = seeded(lambda: vit(160), 1)
    ramp = torch.arange(10.0).repeat_interleave(10).view(1, 100, 1)  # a position is its row
    original.pos_embed.data[:, 1:] = ramp
    torch.save({"model": original.state_dict()}, tmp_path / "w.pth")
    network = seeded(lambda: vit(64), 2)
    with pytest.warns(UserWarning, match="positions are resampled from a grid of 10x10 patches to 4x4"):
        loaded(tmp_path / "w.pth", network)
    assert network.pos_embed.shape == (1, 17, 64)
    assert torch.equal(network.pos_embed[:, 0], original.pos_embed[:, 0])  # the class token has no place
    rows = network.pos_embed.detach()[0, 1:].view(4, 4, 64)
    assert torch.allclose(rows, rows[:, :1, :1].expand(4, 4, 64), atol=1e-4)
    assert rows[:, 0, 0].tolist() == pytest.approx([0.75, 3.25, 5.75, 8.25], abs=0.2)  # centres of 4 rows out of 10


def test_another_normalisation_is_folded_into_the_patches(tmp_path):
    original = seeded(lambda: vit(64), 1)
    about = {"mean": json.dumps([0.5] * 3), "std": json.dumps([0.25] * 3)}
    save_file(original.state_dict(), tmp_path / "w.safetensors", metadata=about)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    with pytest.warns(UserWarning, match="the layer that embeds patches takes the difference"):
        network = loaded(tmp_path / "w.safetensors", seeded(lambda: vit(64), 2))
    expected = original((image - 0.5) / 0.25)
    assert torch.allclose(network((image - mean) / std), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(original((image - mean) / std), expected, atol=1e-2)


def test_what_fits_exactly_raises_no_warning(tmp_path):
    about = {"mean": json.dumps(IMAGENET_MEAN), "std": json.dumps(IMAGENET_STD)}
    save_file(vit(64).state_dict(), tmp_path / "w.safetensors", metadata=about)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = weights_for("ours", tmp_path / "w.safetensors", vit(64))
    assert set(weights) == {name for name, _ in vit(64).named_parameters()}


def test_the_last_layer_is_the_classifier_of_a_plain_network(tmp_path):
    def plain(n_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, n_classes))

    torch.save(plain(3).state_dict(), tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="'3.weight' is 3x4"):
        weights = weights_for("ours", tmp_path / "w.pt", plain(2))
    assert sorted(weights) == ["1.bias", "1.weight"]
