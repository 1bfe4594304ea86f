"""Small folders of real JPEG files, laid out as ImageNet, ImageNet-C and folders of other images are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n02102040", "n03000684")


def picture(seed: int, size: tuple[int, int], class_number: int = 0) -> Image.Image:
    """A smooth random photograph-like image of `size` (width, height), tinted by its class."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 160, (5, 6, 3), dtype=np.uint8)
    coarse[..., class_number % 3] += 90
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_jpeg(path: Path, seed: int, size: tuple[int, int], class_number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size, class_number).save(path, "JPEG", quality=90)


def write_classes(folder: Path, counts: Mapping[str, int], prefix: str, sizes: list[tuple[int, int]]) -> None:
    """`counts` images per class; sizes (width, height) alternate."""
    seed = sum(map(ord, prefix))
    for number, (name, count) in enumerate(counts.items()):
        for image in range(count):
            seed += 1
            write_jpeg(folder / name / f"{prefix}_{image:08d}.JPEG", seed, sizes[seed % len(sizes)], number)


def write_imagenet(root: Path, train: int = 6, val: int = 3, sizes: list[tuple[int, int]] | None = None) -> Path:
    """ROOT/imagenet with three classes; returns its folder."""
    sizes = sizes or [(50, 37), (40, 60), (44, 44)]
    write_classes(root / "imagenet" / "train", dict.fromkeys(CLASSES, train), "train", sizes)
    write_classes(root / "imagenet" / "val", dict.fromkeys(CLASSES, val), "ILSVRC2012_val", sizes)
    return root / "imagenet"


def write_imagenet_c(root: Path, corruptions: tuple[str, ...], side: int, val: int = 2) -> Path:
    """ROOT/ImageNet-C with the files of val/, cropped to `side`."""
    for corruption in corruptions:
        for severity in range(1, 6):
            folder = root / "ImageNet-C" / corruption / str(severity)
            write_classes(folder, dict.fromkeys(CLASSES, val), "ILSVRC2012_val", [(side, side)])
    return root / "ImageNet-C"


def quiet(line: str) -> None:
    """For `say`."""
