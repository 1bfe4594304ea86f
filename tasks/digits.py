"""Handwritten digits: 1,797 real 8x8 images in ten classes, small enough to train a network in seconds on one core.

The images are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI), which
scikit-learn ships. Every writer occurs in all three splits, so the test data are in distribution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from benchmark import Config, EnvironmentProblem, SplitName, Task, TaskInfo
from tasks.corruptions import CORRUPTIONS, corrupt, corruptions_digest
from tasks.photographs import WHITE, photograph_patches
from tasks.strokes import STROKES_SHA256, stroke_figures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from benchmark import Split

N_IMAGES = 1797
N_TEST_PER_CLASS = 45
N_VAL_PER_CLASS = 27

MEAN, STD = 5.0, 6.0
"""Standardisation of the pixels 0..16. Round constants near the mean 4.9 and standard deviation 6.0 of such scans,
so that nothing is estimated from the data and every split is treated alike."""

DATA_SHA256 = "3e81ddca2c36479a3c18751bd0121f9aad0b6211abc1d9f64905bba10abf6461"
"""`data_digest` of the images, labels and split that this version of the task stands for."""


class DigitsConfig(Config):
    """Settings of the digits task."""

    image_size: Literal[8, 16, 32] = Field(
        8,
        description=(
            "side in pixels. Above 8 the scans are enlarged bilinearly, for stems and patches made for larger images"
        ),
    )
    augment: Literal["none", "shift"] = Field(
        "none",
        description=(
            "training augmentation. shift: a random translation by up to one pixel of the scan, in both directions. "
            "Off by default: it gains convolutional networks nothing here, and the likelihood keeps its plain meaning"
        ),
    )
    ood: tuple[Literal["photographs", "strokes"], ...] = Field(
        ("photographs",),
        description=(
            "out-of-distribution sets. photographs: patches of two photographs. strokes: figures of random pen strokes "
            "with the digits' ink, which brightness does not give away"
        ),
    )

    @field_validator("ood")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """In one order, so that two spellings are one run."""
        if len(set(names)) < len(names):
            raise ValueError(f"a set is named twice in {', '.join(names)}; name each once")
        return tuple(sorted(names))

    def identity(self) -> dict[str, Any]:
        """The default sets have the identity that they had before there was a choice."""
        default = self.ood == DigitsConfig.model_fields["ood"].default
        return self.model_dump(mode="json", exclude={"ood"} if default else None)


class Digits(Task):
    """Classify handwritten digits: 1,077 training, 270 validation and 450 test images."""

    name = "digits"
    version = 1
    Config = DigitsConfig
    preload = ("sklearn.datasets",)

    def info(self, config: DigitsConfig) -> TaskInfo:
        n_val, n_test = 10 * N_VAL_PER_CLASS, 10 * N_TEST_PER_CLASS
        side = config.image_size
        return TaskInfo((1, side, side), 10, N_IMAGES - n_val - n_test, n_val, n_test)

    def fingerprint(self, config: DigitsConfig) -> str:
        """From the pinned digest, so that planning reads no data; `load` refuses data that differ from it."""
        strokes = f" strokes {STROKES_SHA256}" if "strokes" in config.ood else ""
        return hashlib.sha256(f"digits {DATA_SHA256} bilinear {config.image_size}{strokes}".encode()).hexdigest()

    def load(self, config: DigitsConfig, split: SplitName) -> Split:
        """One split, standardised. Order within a split: class by class, then by `split_indices`.

        Raises:
            EnvironmentProblem: the installed scikit-learn ships other images, labels or another order.
        """
        import torch

        from benchmark import Split
        from tasks.shift import Shift

        images, labels = _pinned_scans(split)
        augment = None
        if split == "train" and config.augment == "shift":
            augment = Shift(pixels=config.image_size // 8, fill=(0 - MEAN) / STD)
        inputs = standardised(images, config.image_size)
        return Split(inputs, torch.from_numpy(labels.astype("int64")), augment)

    def ood(self, config: DigitsConfig) -> dict[str, Tensor]:
        """400 images each, treated as the scans are. `photographs`: patches of two photographs; `strokes`: figures of
        random pen strokes."""
        made = {"photographs": photograph_patches, "strokes": stroke_figures}
        return {name: standardised(made[name](), config.image_size) for name in config.ood}

    def corruptions(self, config: DigitsConfig) -> Sequence[str]:
        """The five of `tasks.corruptions`."""
        return CORRUPTIONS

    def corrupted(self, config: DigitsConfig, corruption: str, severity: int) -> Split:
        """All 450 test images. The scan is corrupted, then enlarged and standardised as the clean one is: every image
        size sees the same corruption."""
        import torch

        from benchmark import Split

        images, labels = _pinned_scans("test")
        scans = torch.from_numpy(images).float().unsqueeze(1) / WHITE  # (450, 1, 8, 8) in [0, 1]
        inputs = _enlarged_and_standardised(corrupt(scans, corruption, severity) * WHITE, config.image_size)
        return Split(inputs, torch.from_numpy(labels.astype("int64")))

    def corruption_fingerprint(self, config: DigitsConfig) -> str:
        """Of what `corrupted` does to the test images of `fingerprint`."""
        return corruptions_digest()

    def input_range(self, config: DigitsConfig) -> tuple[Tensor, Tensor]:
        """Black is 0 and white 16; in a scan, ink is white."""
        import torch

        return torch.tensor([(0 - MEAN) / STD]), torch.tensor([(WHITE - MEAN) / STD])


def standardised(images: NDArray[np.uint8], side: int) -> Tensor:
    """Images (n, 8, 8) with pixels 0..16 as the networks' inputs: float32 (n, 1, side, side)."""
    import torch

    return _enlarged_and_standardised(torch.from_numpy(images).float().unsqueeze(1), side)


def _enlarged_and_standardised(pixels: Tensor, side: int) -> Tensor:
    """Pixels (n, 1, 8, 8), float32 in 0..16, as the networks' inputs (n, 1, side, side)."""
    from torch.nn.functional import interpolate

    if side != 8:
        # Of integers exact in float32, hence equal on every machine: they are multiplied by multiples of 1/64.
        pixels = interpolate(pixels, size=side, mode="bilinear", align_corners=False)
    return (pixels - MEAN) / STD


def _pinned_scans(split: SplitName) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, 8, 8) and labels (n,) of one split, in its order.

    Raises:
        EnvironmentProblem: the installed scikit-learn ships other images, labels or another order.
    """
    images, labels = read_scans()
    indices = split_indices(labels)
    found = data_digest(images, labels, indices)
    if found != DATA_SHA256:
        raise EnvironmentProblem(
            f"task 'digits': the installed scikit-learn ships other data: SHA-256 {found}, expected "
            f"{DATA_SHA256}.\n  Install another scikit-learn release; results would not be comparable."
        )
    return images[indices[split]], labels[indices[split]]


def read_scans() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (1797, 8, 8) with pixels 0..16 and labels (1797,), in the order of scikit-learn's file."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images.astype("uint8"), data.target.astype("uint8")


def split_indices(labels: NDArray[np.uint8]) -> dict[SplitName, NDArray[np.int64]]:
    """The fixed split: in every class the 45 images of lowest rank are test, the next 27 validation, the rest train.

    The rank of image i is the SHA-256 of the text "digits i": as good as a random order, the same in every run and
    free of any library's random generator.
    """
    import numpy as np

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"digits {index}".encode()).digest()

    parts: dict[SplitName, list[int]] = {"train": [], "val": [], "test": []}
    for label in range(10):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=rank)
        parts["test"] += members[:N_TEST_PER_CLASS]
        parts["val"] += members[N_TEST_PER_CLASS : N_TEST_PER_CLASS + N_VAL_PER_CLASS]
        parts["train"] += members[N_TEST_PER_CLASS + N_VAL_PER_CLASS :]
    return {name: np.asarray(members, dtype="int64") for name, members in parts.items()}


def data_digest(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], indices: dict[SplitName, NDArray[np.int64]]
) -> str:
    """SHA-256 over images and labels (row-major bytes), then the train, val and test indices (little-endian int64)."""
    digest = hashlib.sha256(images.tobytes() + labels.tobytes())
    for name in ("train", "val", "test"):
        digest.update(indices[name].astype("<i8").tobytes())
    return digest.hexdigest()
