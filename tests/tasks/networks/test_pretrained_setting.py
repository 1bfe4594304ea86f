"""The setting `pretrained`: spellings, what planning finds and keeps, what a run starts from, fetching, verifying."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from benchmark import ConfigError, EnvironmentProblem, MissingData, check_data, digest_of
from benchmark.preparation import prepare, set_aside, standing_of
from tasks.networks import published, weight_files
from tasks.networks.catalogue import CifarResNet, Mlp, SmallDeiT, WideResNet
from tasks.networks.checkpoints import metadata
from tasks.networks.libraries import DenseNet, Timm, Torchvision, VisionTransformers
from tasks.networks.published import check_tag, default_tag
from tasks.networks.resnet import resnet18
from tasks.networks.weight_files import OwnFile, PublishedWeights, Source, StoredFile

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
WRN = WideResNet()


def config(**settings):
    return WRN.Config(**settings)


def silent(line):
    return None


def built(seed=0, n_classes=5):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return WRN.build("wrn-10-1", CIFAR, n_classes)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.fixture
def own(tmp_path):
    torch.save({"state_dict": built(7).state_dict()}, tmp_path / "best.pth")
    return tmp_path / "best.pth"


@pytest.mark.parametrize("text", ["yes", "imagenet", "torchvision:", "weights.txt", "hub:resnet18", ""])
def test_a_text_that_names_no_weights_is_refused_with_the_legal_ones(text):
    with pytest.raises(ValidationError, match=rf"'{text}' names no weights(.|\n)*legal: true (.|\n)*\.safetensors"):
        config(pretrained=text)


def test_a_digest_must_be_one_and_belong_to_weights():
    with pytest.raises(ValidationError, match="'abc' is no SHA-256"):
        config(pretrained="best.pth", digest="abc")
    with pytest.raises(ValidationError, match="a digest without weights"):
        config(digest="0" * 64)
    with pytest.raises(ValidationError, match="give the path, or 'digest' as well"):
        config(pretrained="file")


def test_an_untrained_network_has_the_identity_that_it_always_had():
    assert config().identity() == {}
    assert WRN.data("wrn-10-1", config(), CIFAR) == ()
    assert WRN.start("wrn-10-1", config(), built()) == {}


def test_a_path_becomes_a_digest_and_the_run_reads_the_kept_copy(own, root, monkeypatch):
    monkeypatch.chdir(own.parent)
    given = config(pretrained="best.pth")
    check_data(WRN.data("wrn-10-1", given, CIFAR))
    settled = WRN.settled("wrn-10-1", given, CIFAR)
    assert settled.identity() == {"pretrained": "file", "digest": digest_of(own)}
    own.write_bytes(b"overwritten by the next training")
    again = WRN.Config(**json.loads(json.dumps(settled.identity())))
    weights = WRN.start("wrn-10-1", again, built(1))
    assert torch.equal(weights["layer1.0.conv1.weight"], built(7).layer1[0].conv1.weight)
    assert WRN.settled("wrn-10-1", again, CIFAR) == again
    check_data(WRN.data("wrn-10-1", again, CIFAR))


def test_the_same_file_elsewhere_is_the_same_run_and_kept_once(own, root, tmp_path):
    other = tmp_path / "renamed.ckpt"
    other.write_bytes(own.read_bytes())
    first, second = (WRN.settled("wrn-10-1", config(pretrained=str(path)), CIFAR) for path in (own, other))
    assert first == second
    assert [path.name for path in (root / "weights" / "files").iterdir()] == [digest_of(own)]


def test_the_classifier_starts_from_the_runs_seed_when_the_classes_differ(own):
    settled = WRN.settled("wrn-10-1", config(pretrained=str(own)), CIFAR)
    with pytest.warns(UserWarning, match="keeps its initialisation"):
        weights = WRN.start("wrn-10-1", settled, built(1, n_classes=9))
    assert set(built().state_dict()) - set(weights) >= {"fc.weight", "fc.bias"}
    assert "bn.running_var" in weights


def test_a_missing_file_of_the_user_stops_planning_with_its_path(tmp_path):
    wanted = config(pretrained=str(tmp_path / "nowhere.pt"))
    with pytest.raises(MissingData, match=r"nowhere.pt is missing(.|\n)*a file of yours") as refused:
        check_data(WRN.data("wrn-10-1", wanted, CIFAR))
    assert str(tmp_path) in str(refused.value)
    with pytest.raises(MissingData, match="put it there"):
        OwnFile(tmp_path / "nowhere.pt").prepare(tmp_path, silent)


def test_a_digest_that_is_insisted_on_must_be_the_files(own):
    with pytest.raises(ConfigError, match="'digest' insists on 000000"):
        WRN.settled("wrn-10-1", config(pretrained=str(own), digest="0" * 64), CIFAR)


def test_a_damaged_copy_is_noticed_by_verify_and_before_it_is_used(own, root):
    settled = WRN.settled("wrn-10-1", config(pretrained=str(own)), CIFAR)
    kept = StoredFile(settled.digest)
    assert kept.verify(root, silent) == []
    content = bytearray(kept.file(root).read_bytes())
    content[len(content) // 2] ^= 1
    kept.file(root).write_bytes(content)
    assert len(kept.verify(root, silent)) == 1
    with pytest.raises(ConfigError, match="the run was planned with"):
        WRN.start("wrn-10-1", settled, built())


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    """A data root below which nothing can be made."""
    (tmp_path / "plain").write_text("a file where the folder should be")
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path / "plain"))
    return tmp_path / "plain"


def test_below_a_root_that_cannot_be_written_the_users_file_is_read_in_place(own, sealed, tmp_path, monkeypatch):
    monkeypatch.chdir(own.parent)
    settled = WRN.settled("wrn-10-1", config(pretrained="best.pth"), CIFAR)
    assert settled.identity() == {"pretrained": "file", "digest": digest_of(own)}
    note = tmp_path / "cache" / "bnnbench" / "weights" / f"{settled.digest}.path"
    assert note.read_text() == str(own)
    monkeypatch.chdir("/")
    check_data(WRN.data("wrn-10-1", settled, CIFAR))
    weights = WRN.start("wrn-10-1", settled, built(1))
    assert torch.equal(weights["layer1.0.conv1.weight"], built(7).layer1[0].conv1.weight)
    own.write_bytes(own.read_bytes() + b"the next epoch")
    with pytest.raises(ConfigError, match="the run was planned with"):
        WRN.start("wrn-10-1", settled, built(1))
    own.unlink()
    with pytest.raises(MissingData, match="plan that study again") as refused:
        check_data(WRN.data("wrn-10-1", settled, CIFAR))
    assert "data prepare" not in str(refused.value)


def test_neither_root_nor_cache_that_can_be_written_is_the_machines_problem(own, sealed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(sealed))
    with pytest.raises(EnvironmentProblem, match="cannot make the folder"):
        WRN.settled("wrn-10-1", config(pretrained=str(own)), CIFAR)


def test_two_checkpoints_of_one_name_are_two_data_sets(own, tmp_path):
    (tmp_path / "b").mkdir()
    there = WRN.data("wrn-10-1", config(pretrained=str(own)), CIFAR)
    absent = WRN.data("wrn-10-1", config(pretrained=str(tmp_path / "b" / "best.pth")), CIFAR)
    for order in ([*there, *absent], [*absent, *there]):
        with pytest.raises(MissingData, match=r"b/best.pth is missing"):
            check_data(order)


def test_settling_without_the_file_says_that_the_data_are_missing(tmp_path):
    for given in (str(tmp_path / "nowhere.pt"), "torchvision:IMAGENET1K_V1"):
        with pytest.raises(MissingData, match="is missing"):
            CifarResNet().settled("resnet18", config(pretrained=given), IMAGENET)


def test_weights_in_one_folder_stand_and_take_room_each_for_itself(root, monkeypatch):
    (root / "weights").mkdir(parents=True)
    (root / "weights" / "other.safetensors").write_bytes(bytes(3_000_000))
    wanted = PublishedWeights(Source("torchvision", "resnet18", "IMAGENET1K_V1"), 2_000_000)
    assert standing_of(wanted, root).state == "missing"
    monkeypatch.setattr("benchmark.preparation.free_bytes", lambda path: 3_900_000)
    assert "it needs 4 MB" in (prepare(wanted, root, silent) or "")
    wanted.file(root).write_bytes(b"")
    assert standing_of(wanted, root).state == "partial"


def test_what_is_fetched_twice_has_one_digest(tmp_path, monkeypatch):
    """safetensors orders its metadata by hashes that are seeded anew for every file, in one process too."""
    state = {f"layer{i}": torch.full((3,), float(i)) for i in range(9)}
    monkeypatch.setattr(published, "_from_torchvision", lambda origin: (state, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))
    for number in range(8):
        published.fetch(Source("torchvision", "resnet18", "IMAGENET1K_V1"), tmp_path / f"{number}.safetensors")
    assert len({(tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}) == 1
    about = metadata(tmp_path / "0.safetensors")
    assert about == {
        "source": "torchvision:resnet18:IMAGENET1K_V1",
        "mean": "[0.1, 0.2, 0.3]",
        "std": "[0.4, 0.5, 0.6]",
    }
    assert len(load_file(tmp_path / "0.safetensors")) == 9


@pytest.mark.parametrize(
    ("family", "network", "given", "name"),
    [
        (CifarResNet(), "resnet50", True, "torchvision.resnet50.IMAGENET1K_V1"),
        (CifarResNet(), "resnet50", "torchvision:IMAGENET1K_V2", "torchvision.resnet50.IMAGENET1K_V2"),
        (CifarResNet(), "resnet50", "timm:a1_in1k", "timm.resnet50.a1_in1k"),
        (DenseNet(), "densenet161", True, "torchvision.densenet161.IMAGENET1K_V1"),
        (VisionTransformers(), "deit_tiny_patch16_224", True, "timm.deit_tiny_patch16_224.fb_in1k"),
        (Timm(), "timm:vit_base_patch16_224", True, "timm.vit_base_patch16_224.augreg2_in21k_ft_in1k"),
        (Timm(), "timm:resnet18", "timm:tv_in1k", "timm.resnet18.tv_in1k"),
        (Torchvision(), "torchvision:resnet50", True, "torchvision.resnet50.IMAGENET1K_V2"),
    ],
)
def test_published_weights_are_data_sets_below_the_root(root, family, network, given, name):
    (wanted,) = family.data(network, family.Config(pretrained=given), IMAGENET)
    assert wanted.name == f"weights-{name}"
    with pytest.raises(MissingData, match=f"bnnbench data prepare weights-{name}") as refused:
        check_data([wanted])
    assert str(root / "weights" / f"{name}.safetensors") in str(refused.value)


@pytest.mark.parametrize("network", sorted(VisionTransformers.tags))
def test_the_tags_of_the_transformers_are_timms_defaults(network):
    assert default_tag("timm", network) == VisionTransformers.tags[network]


@pytest.mark.parametrize(
    ("family", "network", "given", "shape", "reason"),
    [
        (CifarResNet(), "resnet18", True, CIFAR, "7x7 stem, and images of 32x32 get the 3x3 stem"),
        (CifarResNet(), "resnet20", True, IMAGENET, "no published weights"),
        (WideResNet(), "wrn-28-10", "timm:x", CIFAR, "no published weights"),
        (SmallDeiT(), "deit_tiny", True, IMAGENET, "deit_tiny_patch16_224"),
        (Mlp(), "mlp-64", True, CIFAR, "no published weights"),
        (
            VisionTransformers(),
            "vit_base_patch16_224",
            "torchvision:DEFAULT",
            IMAGENET,
            r"legal: true, false, timm:TAG",
        ),
        (Torchvision(), "torchvision:resnet18", "timm:a1_in1k", IMAGENET, "torchvision:TAG"),
    ],
)
def test_published_weights_that_no_network_can_have_are_refused_while_planning(family, network, given, shape, reason):
    with pytest.raises(ConfigError, match=reason):
        family.data(network, family.Config(pretrained=given), shape)


def test_an_unknown_tag_names_those_that_the_library_has():
    with pytest.raises(ConfigError, match=r"Did you mean 'IMAGENET1K_V2'(.|\n)*legal: torchvision:IMAGENET1K_V2"):
        check_data(CifarResNet().data("resnet50", config(pretrained="torchvision:IMAGENET1K_V3"), IMAGENET))
    with pytest.raises(ConfigError, match="legal: timm:augreg2_in21k_ft_in1k, timm:augreg_in1k"):
        check_tag(Source("timm", "vit_base_patch16_224", "nothing"))
    with pytest.raises(ConfigError, match="publishes no weights of 'test_cnn'"):
        check_tag(Source("timm", "test_cnn", "nothing"))


def test_fetching_goes_through_torchvision_and_is_verified(root, tmp_path, monkeypatch):
    """torchvision takes from its own cache what it would download, so the file is put there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    original = resnet18(3, 1000, "imagenet")
    torch.save(original.state_dict(), tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    given = config(pretrained=True)
    (wanted,) = CifarResNet().data("resnet18", given, IMAGENET)
    wanted.prepare(root, silent)
    check_data([wanted])
    assert sorted(os.listdir(root / "weights")) == [
        "torchvision.resnet18.IMAGENET1K_V1.safetensors",
        "torchvision.resnet18.IMAGENET1K_V1.safetensors.sha256",
    ]
    assert wanted.verify(root, silent) == []
    settled = CifarResNet().settled("resnet18", given, IMAGENET)
    assert settled.identity() == {"pretrained": "torchvision:IMAGENET1K_V1", "digest": wanted.fingerprint(root)}
    weights = CifarResNet().start("resnet18", settled, resnet18(3, 1000, "imagenet"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in original.named_parameters())

    path = wanted.file(root)
    before = path.stat().st_mtime_ns
    wanted.prepare(root, silent)
    assert path.stat().st_mtime_ns == before  # what is whole is kept
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert wanted.problems(root) == []
    assert "is not the file that" in wanted.verify(root, silent)[0]
    assert set_aside(wanted, root, silent) is None
    assert (root / "weights" / f"{path.name}.damaged").read_bytes() == content
    wanted.prepare(root, silent)
    assert wanted.verify(root, silent) == []
    path.write_bytes(content[:-100])
    assert "its header says" in wanted.problems(root)[0]
    wanted.prepare(root, silent)
    assert torch.equal(load_file(path)["fc.bias"], original.fc.bias)


def test_without_a_way_to_the_network_fetching_says_where_the_files_belong(root, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would keep these proxies for all that comes after
    wanted = PublishedWeights(Source("torchvision", "squeezenet1_1", "IMAGENET1K_V1"))
    with pytest.raises(MissingData, match=r"could not fetch(.|\n)*no way to the network") as refused:
        wanted.prepare(root, silent)
    assert str(root / "weights") in str(refused.value)
    assert list((root / "weights").iterdir()) == []


def test_a_copy_that_is_interrupted_leaves_nothing(own, root, monkeypatch):
    def interrupted(source, target, digest):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(weight_files, "copy_checked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        WRN.settled("wrn-10-1", config(pretrained=str(own)), CIFAR)
    assert list((root / "weights" / "files").iterdir()) == []


PLANNING = """
import sys
from tasks.networks.catalogue import CifarResNet
from tasks.networks.libraries import DenseNet, Torchvision, VisionTransformers

Torchvision().check("torchvision:convnext_tiny")
VisionTransformers().data("vit_base_patch16_224", VisionTransformers.Config(pretrained=True), (3, 224, 224))
CifarResNet().data("resnet50", CifarResNet.Config(pretrained=True), (3, 224, 224))
given = CifarResNet.Config(pretrained=sys.argv[1])
CifarResNet().data("resnet18", given, (3, 32, 32))[0].problems(None)
CifarResNet().settled("resnet18", given, (3, 32, 32))
print([name for name in ("torch", "timm", "torchvision", "numpy") if name in sys.modules])
"""


def test_planning_with_weights_imports_no_heavy_package(own):
    done = subprocess.run([sys.executable, "-c", PLANNING, str(own)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
