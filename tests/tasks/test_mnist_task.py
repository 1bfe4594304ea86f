"""The tasks mnist and fashion_mnist on small files: splits, normalisation, shift and out-of-distribution sets."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from image_files import write_mnist
from pydantic import ValidationError

from benchmark import ConfigError, MissingData
from tasks.mnist import FashionMnistConfig, FashionMnistTask, MnistConfig, MnistTask
from tasks.shift import Shift
from tasks.stratified import split_places

TASKS = [(MnistTask(), MnistConfig, "MNIST"), (FashionMnistTask(), FashionMnistConfig, "FashionMNIST")]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


def levels(inputs, mean, std):
    return torch.round((inputs[:, 0] * std + mean) * 255).to(torch.uint8).numpy()


@pytest.mark.parametrize(("task", "config", "folder"), TASKS)
def test_training_images_are_divided_by_rank_and_the_test_set_is_its_file(task, config, folder, root):
    written = write_mnist(root, folder)
    settings = config(val_per_class=2, normalise="unit")
    train, val, test = (task.load(settings, split) for split in ("train", "val", "test"))
    info = task.info(settings)
    assert (info.n_train, info.n_val, info.n_test) == (len(train), len(val), len(test)) == (40, 20, 20)
    assert (info.input_shape, info.n_classes) == ((1, 28, 28), 10)
    pixels, labels = written["train"]
    ranked = sorted(range(60), key=lambda i: hashlib.sha256(f"{task.name} {i}".encode()).digest())
    chosen = sorted(i for label in range(10) for i in [i for i in ranked if labels[i] == label][:2])
    rest = [i for i in range(60) if i not in chosen]
    for split, places in ((val, chosen), (train, rest)):
        assert np.array_equal(levels(split.inputs, 0, 1), pixels[places])
        assert split.labels.tolist() == labels[places].tolist()
    assert np.array_equal(levels(test.inputs, 0, 1), written["test"][0])
    assert test.labels.tolist() == written["test"][1].tolist()


def test_the_split_of_sixty_thousand_images_is_pinned():
    """A place that changes would change every stored number; the published files have 60,000 images."""
    labels = torch.arange(60_000) % 10
    places = split_places("mnist", labels, 500, "val")
    assert torch.bincount(labels[places]).tolist() == [500] * 10
    digest = hashlib.sha256(places.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest == "eb0c7681e1f932701749bcf5eeaff7de9c06a6b46383bf8db97f75df8170fce7"
    train = split_places("mnist", labels, 500, "train")
    assert sorted([*train.tolist(), *places.tolist()]) == list(range(60_000))


def test_normalisation_and_the_range_of_pixels(root):
    write_mnist(root)
    for settings, mean, std in (
        (MnistConfig(val_per_class=1), 0.1307, 0.3081),
        (MnistConfig(val_per_class=1, normalise="unit"), 0.0, 1.0),
    ):
        inputs = MnistTask().load(settings, "test").inputs
        black, white = MnistTask().input_range(settings)
        assert (black.item(), white.item()) == (pytest.approx(-mean / std), pytest.approx((1 - mean) / std))
        assert inputs.min().item() == pytest.approx(black.item(), abs=1e-6)
        assert inputs.max().item() == pytest.approx(white.item(), abs=1e-6)


def test_only_training_data_are_shifted_and_only_on_request(root):
    write_mnist(root)
    shifted = MnistConfig(val_per_class=1, augment="shift")
    assert MnistTask().load(shifted, "train").augment == Shift(pixels=2, fill=-0.1307 / 0.3081)
    assert MnistTask().load(shifted, "val").augment is None
    assert MnistTask().load(shifted, "test").augment is None
    assert MnistTask().load(MnistConfig(val_per_class=1), "train").augment is None


def test_without_validation_all_images_train(root):
    write_mnist(root)
    settings = MnistConfig(val_per_class=0)
    assert MnistTask().load(settings, "val") is None
    assert len(MnistTask().load(settings, "train")) == MnistTask().info(settings).n_train == 60


def test_a_validation_split_that_empties_a_class_is_refused(root):
    write_mnist(root)
    for call in (MnistTask().info, lambda config: MnistTask().load(config, "train")):
        with pytest.raises(
            ConfigError, match=r"val_per_class: 500 leaves no .* class 0, which has 6 (.|\n)*legal: 0 .* to 5"
        ):
            call(MnistConfig())


def test_the_test_split_needs_no_training_file(root):
    write_mnist(root)
    for path in (root / "MNIST" / "raw").glob("train-*"):
        path.unlink()
    assert len(MnistTask().load(MnistConfig(), "test")) == 20
    with pytest.raises(MissingData, match=r"train-images-idx3-ubyte: missing(.|\n)*bnnbench data prepare mnist"):
        MnistTask().load(MnistConfig(), "train")
    with pytest.raises(MissingData, match="bnnbench data prepare mnist"):
        MnistTask().info(MnistConfig())


def test_the_other_data_set_is_out_of_distribution_in_the_same_normalisation(root):
    write_mnist(root)
    other = write_mnist(root, "FashionMNIST", n_test=30, seed=9)
    assert MnistTask().ood(MnistConfig()) == {}
    settings = MnistConfig(ood=("fashion_mnist",), val_per_class=1)
    (name, found), *more = MnistTask().ood(settings).items()
    assert (name, more) == ("fashion_mnist", [])
    assert np.array_equal(levels(found.read(slice(0, 30)), 0.1307, 0.3081), other["test"][0])
    assert [each.name for each in MnistTask().data(settings)] == ["mnist", "fashion_mnist"]
    assert [each.name for each in MnistTask().data(MnistConfig())] == ["mnist"]
    with pytest.raises(ValidationError):
        MnistConfig(ood=("mnist",))


def test_a_set_out_of_distribution_is_named_once():
    for config, name in ((MnistConfig, "fashion_mnist"), (FashionMnistConfig, "mnist")):
        with pytest.raises(ValidationError, match=f"named twice in {name}, {name}"):
            config(ood=(name, name))


def test_the_fingerprint_covers_the_files_and_the_split(root):
    write_mnist(root)
    before = MnistTask().fingerprint(MnistConfig())
    assert MnistTask().fingerprint(MnistConfig(augment="shift")) == before
    assert MnistTask().fingerprint(MnistConfig(val_per_class=1)) != before
    assert MnistTask().fingerprint(MnistConfig(normalise="unit")) != before
    write_mnist(root, seed=1)
    assert MnistTask().fingerprint(MnistConfig()) != before


def test_corrupted_test_images_keep_labels_and_normalisation(root):
    write_mnist(root)
    task, settings = MnistTask(), MnistConfig(val_per_class=1)
    clean = task.load(settings, "test")
    black, white = task.input_range(settings)
    for corruption in task.corruptions(settings):
        found = task.corrupted(settings, corruption, 3)
        assert torch.equal(found.labels, clean.labels)
        assert found.shape == clean.shape
        assert found.inputs.min() >= black - 1e-6
        assert found.inputs.max() <= white + 1e-6
        assert (found.inputs - clean.inputs).abs().mean() > 0.02
    assert [each.name for each in task.corruption_data(settings)] == ["mnist"]
