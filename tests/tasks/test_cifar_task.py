"""The tasks cifar10 and cifar100 on small files: splits, augmentations, enlarged images, shift, and a run."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import write_cifar10, write_cifar100, write_corrupted, write_svhn
from pydantic import ValidationError

from benchmark import ConfigError, MissingData
from tasks.augmentations import CutOut, FlipCrop, InTurn
from tasks.cifar import Cifar10Config, Cifar10Task, Cifar100Config, Cifar100Task
from tasks.published_corruptions import CORRUPTIONS
from tasks.rand_augment import RandAugment

PLUGIN = """
from tasks.cifar import Cifar10Task

class Cifar10(Cifar10Task):
    name = "cifar10"
"""
TASK = "cifar10: {val_per_class: 2}"
STUDY = ["--task", TASK, "--network", "mlp-8", "--method", "map: {epochs: 1}", "--draws", "1"]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


def levels(task, inputs):
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (task.mean, task.std))
    return torch.round((inputs * std + mean) * 255).to(torch.uint8).numpy()


@pytest.mark.parametrize(
    ("task", "settings", "write"),
    [
        (Cifar10Task(), Cifar10Config(val_per_class=3), write_cifar10),
        (Cifar100Task(), Cifar100Config(val_per_class=1), write_cifar100),
    ],
)
def test_training_images_are_divided_by_rank_and_the_test_set_is_its_file(task, settings, write, root):
    written = write(root)
    train, val, test = (task.load(settings, split) for split in ("train", "val", "test"))
    info = task.info(settings)
    assert (info.n_train, info.n_val, info.n_test) == (len(train), len(val), len(test))
    assert (info.input_shape, info.n_classes) == ((3, 32, 32), task.files.n_classes)
    pixels, labels = written["train"]
    n = settings.val_per_class
    ranked = sorted(range(len(labels)), key=lambda i: hashlib.sha256(f"{task.name} {i}".encode()).digest())
    chosen = sorted(i for k in range(info.n_classes) for i in [i for i in ranked if labels[i] == k][:n])
    rest = [i for i in range(len(labels)) if i not in chosen]
    for split, places in ((val, chosen), (train, rest)):
        assert np.array_equal(levels(task, split.inputs), pixels[places])
        assert split.labels.tolist() == labels[places].tolist()
    assert np.array_equal(levels(task, test.inputs), written["test"][0])
    assert test.labels.tolist() == written["test"][1].tolist()
    black, white = task.input_range(settings)
    assert torch.allclose(test.inputs.amin((0, 2, 3)), black, atol=1e-6)
    assert torch.allclose(test.inputs.amax((0, 2, 3)), white, atol=1e-6)


def test_the_published_sizes_are_announced_without_reading_the_training_files(root):
    folder = root / "cifar-10-batches-py"
    write_cifar10(root)
    for name, size in Cifar10Task().files.published.items():
        with open(folder / name, "r+b") as handle:  # a sparse file of the published size
            handle.truncate(size)
            handle.seek(size - 1)
            handle.write(b".")
    info = Cifar10Task().info(Cifar10Config())
    assert (info.n_train, info.n_val, info.n_test) == (45_000, 5_000, 20)


def test_the_augmentations_are_those_of_the_papers_and_grow_with_the_image(root):
    write_cifar10(root)
    task = Cifar10Task()
    black = tuple(task.input_range(Cifar10Config())[0].tolist())
    for side in (32, 64, 224):
        found = {
            name: task.load(Cifar10Config(val_per_class=1, augment=name, image_size=side), "train").augment
            for name in ("none", "flip_crop", "flip_crop_cutout", "flip_crop_randaugment")
        }
        scale = side // 32
        crop = found["flip_crop"]
        assert isinstance(crop, FlipCrop)
        assert (crop.pixels, crop.fill) == (4 * scale, pytest.approx(black))
        assert found["none"] is None
        assert found["flip_crop_cutout"] == InTurn((crop, CutOut(16 * scale)))
        assert found["flip_crop_randaugment"] == InTurn((crop, RandAugment(task.mean, task.std)))
    assert task.load(Cifar10Config(val_per_class=1), "train").augment == task._augment(Cifar10Config())
    assert task.load(Cifar10Config(val_per_class=1), "val").augment is None
    assert task.load(Cifar10Config(val_per_class=1), "test").augment is None


@pytest.mark.parametrize("side", [64, 224])
def test_enlarged_images_are_held_small_and_read_large(side, root):
    write_cifar10(root)
    large = Cifar10Task().load(Cifar10Config(val_per_class=1, image_size=side), "test")
    small = Cifar10Task().load(Cifar10Config(val_per_class=1), "test")
    expected = torch.nn.functional.interpolate(small.inputs, size=side, mode="bilinear", align_corners=False)
    assert torch.equal(large.inputs, expected)
    assert Cifar10Task().info(Cifar10Config(val_per_class=1, image_size=side)).input_shape == (3, side, side)


def test_other_data_sets_are_out_of_distribution_in_the_same_normalisation_and_size(root):
    write_cifar10(root)
    hundred = write_cifar100(root)
    house, _ = write_svhn(root)
    task = Cifar10Task()
    settings = Cifar10Config(ood=("svhn", "cifar100"))
    found = task.ood(settings)
    assert sorted(found) == ["cifar100", "svhn"]
    for name, pixels in (("svhn", house), ("cifar100", hundred["test"][0])):
        assert np.array_equal(levels(task, found[name].read(slice(0, len(pixels)))), pixels)
    assert task.ood(Cifar10Config(ood=("svhn",), image_size=64))["svhn"].shape == (30, 3, 64, 64)
    assert {each.name for each in task.data(settings)} == {"cifar10", "svhn", "cifar100"}
    assert [each.name for each in task.data(Cifar10Config())] == ["cifar10"]
    assert list(Cifar100Task().ood(Cifar100Config(ood=("cifar10",)))) == ["cifar10"]
    assert Cifar10Config(ood=("cifar100", "svhn")) == settings
    for wrong in (("cifar10",), ("svhn", "svhn")):
        with pytest.raises(ValidationError):
            Cifar10Config(ood=wrong)
    assert [task.data_set(name).name for name in ("svhn", "cifar100")] == ["svhn", "cifar100"]
    assert task.data_set("imagenet") is None


def test_corrupted_images_are_those_of_the_benchmark(root):
    written, labels = write_corrupted(root, CORRUPTIONS, n=8)
    task, settings = Cifar10Task(), Cifar10Config()
    assert task.corruptions(settings) == CORRUPTIONS
    assert len(set(CORRUPTIONS)) == 15
    found = task.corrupted(settings, "jpeg_compression", 4)
    assert np.array_equal(levels(task, found.inputs), written["jpeg_compression"][24:32].transpose(0, 3, 1, 2))
    assert found.labels.tolist() == labels.tolist()
    assert [each.name for each in task.corruption_data(settings)] == ["cifar10c"]
    assert [each.name for each in Cifar100Task().corruption_data(Cifar100Config())] == ["cifar100c"]
    assert task.corrupted(Cifar10Config(image_size=64), "fog", 1).shape == (8, 3, 64, 64)


def test_the_test_split_needs_no_training_file_and_a_missing_one_is_named(root):
    write_cifar10(root)
    (root / "cifar-10-batches-py" / "data_batch_2").unlink()
    assert len(Cifar10Task().load(Cifar10Config(), "test")) == 20
    for call in (Cifar10Task().info, lambda config: Cifar10Task().load(config, "train")):
        with pytest.raises(MissingData, match=r"data_batch_2: missing(.|\n)*bnnbench data prepare cifar10"):
            call(Cifar10Config())


def test_a_validation_split_that_empties_a_class_is_refused(root):
    write_cifar10(root)
    with pytest.raises(ConfigError, match=r"'cifar10': val_per_class: 500 leaves no (.|\n)*legal: 0 .* to 9"):
        Cifar10Task().info(Cifar10Config())
    assert Cifar10Task().load(Cifar10Config(val_per_class=0), "val") is None
    assert Cifar100Config().val_per_class == 50


def test_the_fingerprint_covers_files_split_size_and_what_is_out_of_distribution(root):
    write_cifar10(root)
    write_svhn(root)
    task = Cifar10Task()
    settings = [{}, {"val_per_class": 1}, {"image_size": 64}, {"ood": ("svhn",)}]
    found = [task.fingerprint(Cifar10Config(**each)) for each in settings]
    assert len(set(found)) == 4
    assert task.fingerprint(Cifar10Config(augment="none")) == found[0]
    write_cifar10(root, seed=20)
    assert task.fingerprint(Cifar10Config()) not in found


def test_declaring_planning_and_describing_import_nothing_heavy(root):
    write_cifar10(root)
    write_svhn(root)
    code = """
import json, sys
from tasks.cifar import Cifar10Task, Cifar100Task
from tasks.mnist import FashionMnistTask, MnistTask
task = Cifar10Task()
config = task.Config(val_per_class=1, ood=("svhn",))
task.info(config), task.fingerprint(config), task.corruptions(config)
[each.problems(each.folder(__import__("pathlib").Path("."))) for each in task.corruption_data(config)]
heavy = ("torch", "torchvision", "numpy", "scipy")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def bnnbench(tmp_path, *arguments):
    program = str(Path(sys.executable).with_name("bnnbench"))
    command = [program, *arguments, "--results", str(tmp_path / "results")]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)


@pytest.fixture
def extra(tmp_path):
    """Flags that register the task where it is not installed."""
    from benchmark.registry import TASKS

    if "cifar10" in TASKS.names():
        return []
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return ["--plugin", str(tmp_path / "plugin.py")]


def test_a_plan_says_what_is_missing_before_anything_runs(tmp_path, root, extra):
    done = bnnbench(tmp_path, "plan", *STUDY, *extra)
    assert done.returncode == 3, done.stderr
    for words in (f"{root}/cifar-10-batches-py", "data_batch_1: missing", "bnnbench data prepare cifar10"):
        assert words in done.stderr


def test_a_network_is_trained_and_scored_on_small_files(tmp_path, root, extra):
    write_cifar10(root)
    done = bnnbench(tmp_path, "run", *STUDY, *extra, "--launcher", "inline: {latency: 'off'}", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "results").rglob("result.json")
    text = result.read_text()
    assert '"status": "ok"' in text or json.loads(text).get("status", "ok") == "ok"
    (arrays,) = (tmp_path / "results").rglob("predictions.npz")
    with np.load(arrays) as found:
        shapes = {name: found[name].shape for name in found.files}
    assert (20, 10) in shapes.values(), shapes
