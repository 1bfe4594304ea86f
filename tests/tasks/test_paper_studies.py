"""The studies of the papers' matrices can be planned where their data are, and elsewhere say what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from image_files import write_cifar10, write_cifar100, write_corrupted, write_mnist, write_svhn
from jpeg_folders import quiet, write_classes
from safetensors.torch import save_file

from benchmark.datasets import DATA_ROOT, MissingData
from benchmark.plan import Plan, plan
from benchmark.resource_classes import resources_of
from benchmark.studies import FOLDER
from benchmark.study import read_study
from tasks.image_folder.originals import ImageNet
from tasks.published_corruptions import CORRUPTIONS

PAPERS = sorted(path.stem for path in FOLDER.glob("paper-*.yaml"))
WEIGHTS = (
    "torchvision.resnet18.IMAGENET1K_V1",
    "torchvision.resnet34.IMAGENET1K_V1",
    "torchvision.resnet50.IMAGENET1K_V1",
    "torchvision.densenet161.IMAGENET1K_V1",
    "timm.resnet50.a1_in1k",
    "timm.deit_tiny_patch16_224.fb_in1k",
    "timm.deit_small_patch16_224.fb_in1k",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data in the published formats, few of each; weights that nothing but planning looks at."""
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder, n_train=1500, n_test=20)
    write_cifar10(folder, per_batch=1200, n_test=20)
    write_cifar100(folder, n_train=6000, n_test=100)
    write_svhn(folder, 30)
    write_corrupted(folder, CORRUPTIONS, "CIFAR-10-C", 20, 10)
    write_corrupted(folder, CORRUPTIONS, "CIFAR-100-C", 100, 100)
    for part, n in (("train", 12), ("val", 2)):
        write_classes(folder / "imagenet" / part, {"n01440764": n, "n01443537": n}, part[0], [(40, 32)])
    ImageNet().prepare(folder, quiet)
    (folder / "weights").mkdir()
    for name in WEIGHTS:
        save_file({"weight": torch.zeros(2)}, folder / "weights" / f"{name}.safetensors")
    return folder


def planned(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    monkeypatch.setenv(DATA_ROOT, str(root))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return plan(read_study(name))


@pytest.mark.parametrize("name", [*PAPERS, "all-cifar"])
def test_every_row_of_the_study_is_planned_and_asks_for_a_device(name, root, monkeypatch, tmp_path):
    made = planned(name, root, monkeypatch, tmp_path)
    rows = {(spec.task.name, spec.network.label(), spec.label) for spec in made.rows.values()}
    study = made.study
    excluded = {(spec.task.name, spec.network.label(), spec.label) for spec in made.excluded}
    asked_for = len(study.tasks) * len(study.networks) * len(study.methods)
    assert len(rows) + len(excluded) >= asked_for  # companions come on top
    assert len(made.rows) == len(rows) * len(study.seeds)
    assert all(asked.gpus == 1 for asked in resources_of(study, made.specs.values()).values())


def test_the_base_networks_of_imagenet_are_the_published_ones_as_they_are(root, monkeypatch, tmp_path):
    for name in (name for name in PAPERS if "imagenet" in name or name == "paper-pwfn"):
        bases = [each for each in planned(name, root, monkeypatch, tmp_path).rows.values() if each.method.name == "map"]
        assert bases
        assert {spec.method.config["epochs"] for spec in bases} == {0}
        assert all(spec.network.config["pretrained"] for spec in bases)


@pytest.mark.parametrize("name", [*PAPERS, "all-cifar"])
def test_without_the_data_the_study_names_the_command_that_brings_them(name, monkeypatch, tmp_path):
    with pytest.raises(MissingData, match="To mend it: bnnbench data prepare"):
        planned(name, tmp_path / "nothing", monkeypatch, tmp_path)
