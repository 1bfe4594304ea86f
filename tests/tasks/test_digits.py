"""The digits task: a fixed, stratified, complete split of known data, and its augmentation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmark.errors import EnvironmentProblem
from tasks import digits, photographs
from tasks.digits import Digits, DigitsConfig, data_digest, read_scans, split_indices
from tasks.photographs import photograph_patches
from tasks.shift import Shift

TASK = Digits()


def counts(labels):
    return np.bincount(labels, minlength=10).tolist()


def test_the_split_is_disjoint_complete_and_has_the_announced_sizes():
    _, labels = read_scans()
    indices = split_indices(labels)
    assert sorted(np.concatenate(list(indices.values())).tolist()) == list(range(1797))
    info = TASK.info(DigitsConfig())
    assert (info.n_train, info.n_val, info.n_test) == (1077, 270, 450)
    assert {name: len(part) for name, part in indices.items()} == {"train": 1077, "val": 270, "test": 450}


def test_the_split_is_stratified_exactly():
    _, labels = read_scans()
    indices = split_indices(labels)
    assert counts(labels[indices["test"]]) == [45] * 10
    assert counts(labels[indices["val"]]) == [27] * 10
    assert counts(labels[indices["train"]]) == [n - 72 for n in counts(labels)]


def test_the_fingerprint_is_pinned():
    assert TASK.fingerprint(DigitsConfig()) == "649fa47b72aa0512ebe58d795ff22a7a85e3d31298e304f8379fb36f9355f9a1"
    assert (
        TASK.fingerprint(DigitsConfig(image_size=16))
        == "7cdd82e383148d05d8f79c5d7d05f58f5a3bf12f8d8402c8b960c4b10b9f9e25"
    )


def test_the_digest_covers_images_labels_and_split():
    images, labels = read_scans()
    indices = split_indices(labels)
    assert data_digest(images, labels, indices) == digits.DATA_SHA256
    for array in (images, labels, *indices.values()):
        before = array.flat[5]
        array.flat[5] = before + 1
        assert data_digest(images, labels, indices) != digits.DATA_SHA256
        array.flat[5] = before


def test_other_data_are_refused(monkeypatch):
    images, labels = read_scans()
    images[3, 4, 4] ^= 1
    monkeypatch.setattr(digits, "read_scans", lambda: (images, labels))
    with pytest.raises(EnvironmentProblem, match=r"ships other data: SHA-256 [0-9a-f]{64}, expected 3e81ddca"):
        TASK.load(DigitsConfig(), "train")


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_splits_hold_standardised_images_of_the_announced_shape(size, split):
    config = DigitsConfig(image_size=size)
    data = TASK.load(config, split)
    assert data.inputs.shape == (len(data), *TASK.info(config).input_shape)
    # Pixels 0..16 become (pixel - 5) / 6, and every split has background.
    assert data.inputs.min() == pytest.approx(-5 / 6)
    assert -1 < data.inputs.mean() < 1
    assert data.inputs.max() <= 11 / 6 + 1e-6
    # Interpolation smooths, so that the spread of enlarged images is a little smaller.
    assert 0.8 < data.inputs.std() < 1.1


def test_loaded_images_are_the_scans_at_the_split_indices():
    images, labels = read_scans()
    test = split_indices(labels)["test"]
    data = TASK.load(DigitsConfig(), "test")
    assert torch.equal(torch.round(data.inputs[:, 0] * 6 + 5).to(torch.uint8), torch.from_numpy(images[test]))
    assert data.labels.tolist() == labels[test].tolist()


def test_enlarged_images_interpolate_between_neighbouring_pixels():
    small = TASK.load(DigitsConfig(), "val").inputs[0, 0]
    large = TASK.load(DigitsConfig(image_size=16), "val").inputs[0, 0]
    # Output pixel (5, 7) lies a quarter below row 2 and a quarter right of column 3.
    expected = 0.5625 * small[2, 3] + 0.1875 * small[3, 3] + 0.1875 * small[2, 4] + 0.0625 * small[3, 4]
    assert large[5, 7] == pytest.approx(expected.item(), abs=1e-6)


def test_only_training_data_are_augmented_and_only_on_request():
    shifted = DigitsConfig(augment="shift", image_size=16)
    augment = TASK.load(shifted, "train").augment
    assert augment == Shift(pixels=2, fill=-5 / 6)
    assert pickle.loads(pickle.dumps(augment)) == augment
    assert TASK.load(shifted, "val").augment is None
    assert TASK.load(shifted, "test").augment is None
    assert TASK.load(DigitsConfig(), "train").augment is None


def test_shift_moves_each_image_by_one_of_nine_offsets_and_fills_the_rest():
    inputs = torch.arange(1.0, 13.0).view(1, 1, 3, 4).repeat(400, 2, 1, 1)
    moved = Shift(pixels=1, fill=-7.0)(inputs, torch.Generator().manual_seed(0))
    padded = torch.full((2, 5, 6), -7.0)
    padded[:, 1:4, 1:5] = inputs[0]
    expected = {tuple(padded[:, r : r + 3, c : c + 4].flatten().tolist()) for r in range(3) for c in range(3)}
    assert {tuple(image.flatten().tolist()) for image in moved} == expected


def test_shift_depends_on_the_generator_alone():
    inputs = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    shift = Shift(pixels=1, fill=0.0)
    first, again = (shift(inputs, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, shift(inputs, torch.Generator().manual_seed(6)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 12},
        {"augment": "flip"},
        {"size": 8},
        {"ood": ("letters",)},
        {"ood": "strokes"},
        {"ood": ("strokes", "strokes")},
    ],
)
def test_unknown_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        DigitsConfig(**wrong)


# -- what is no digit, and what is black and white ------------------------------------------------------------------


def test_photographs_are_four_hundred_fixed_patches_on_the_grey_levels_of_the_scans():
    patches = photograph_patches()
    assert (patches.shape, patches.dtype, patches.min(), patches.max()) == ((400, 8, 8), np.uint8, 0, 16)
    assert np.array_equal(patches, photograph_patches())
    assert len({patch.tobytes() for patch in patches}) == 400
    assert np.ptp(patches, axis=(1, 2)).min() == photographs.CONTRAST
    # Decoders of JPEG may differ by one level of 256, which moves a patch's mean by less than this.
    assert patches[:200].mean() == pytest.approx(6.13, abs=0.05)
    assert patches[200:].mean() == pytest.approx(7.96, abs=0.05)


def test_a_patch_is_a_tile_of_the_photograph():
    from sklearn.datasets import load_sample_image

    grey = load_sample_image("china.jpg") @ np.array([0.299, 0.587, 0.114]) * 16 / 255
    tiles = {
        tuple(np.rint(grey[row : row + 8, column : column + 8]).astype(int).flat)
        for row in range(0, 424, 8)
        for column in range(0, 640, 8)
    }
    assert all(tuple(patch.flat) in tiles for patch in photograph_patches()[:200].astype(int))


def test_other_photographs_are_refused(monkeypatch):
    monkeypatch.setitem(photographs.FILES_SHA256, "flower.jpg", "0" * 64)
    with pytest.raises(EnvironmentProblem, match=r"ships another flower\.jpg: SHA-256 [0-9a-f]{64}, expected 0000"):
        TASK.ood(DigitsConfig())


@pytest.mark.parametrize("size", [8, 16])
def test_photographs_are_normalised_as_the_test_set_and_lie_between_black_and_white(size):
    config = DigitsConfig(image_size=size)
    (name, found), *others = TASK.ood(config).items()
    assert (name, others) == ("photographs", [])
    assert (found.dtype, tuple(found.shape)) == (torch.float32, (400, 1, size, size))
    black, white = TASK.input_range(config)
    assert (black.shape, white.shape) == ((1,), (1,))
    assert (black.item(), white.item()) == (pytest.approx(-5 / 6), pytest.approx(11 / 6))
    for inputs in (found, *(TASK.load(config, split).inputs for split in ("train", "val", "test"))):
        assert inputs.min() >= black
        assert inputs.max() <= white
    if size == 8:
        assert np.array_equal(torch.round(found[:, 0] * 6 + 5).numpy(), photograph_patches())
