"""How a decoded image becomes an input: the papers' views and augmentations, on uint8 pixels.

Every random number comes from the example's own generator, `example_random`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Protocol

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from tasks.image_folder.decode import BrokenImage

AREA = (0.08, 1.0)
"""Of a random crop, as a part of the image (Szegedy et al. 2015; the ImageNet recipe of ResNet and DeiT)."""

RATIO = (3 / 4, 4 / 3)
"""Width to height of a random crop."""

ATTEMPTS = 10


class Augmentation(Protocol):
    """Of one example at a time; must not depend on anything but its arguments."""

    def pixels(self, image: Tensor, random: Random) -> Tensor:
        """uint8 (3, H, W) of any size to uint8 (3, side, side)."""

    def batch(self, inputs: Tensor, seed: int, places: Tensor) -> Tensor:
        """Normalised inputs (b, 3, side, side) on the device; places: int64 (b,) in the split. May work in place."""


def example_random(seed: int, place: int, purpose: str) -> Random:
    """The generator of one example in one pass."""
    return Random(f"{purpose} {seed} {place}")


@dataclass(frozen=True)
class View:
    """A test image: shorter side resized to `resized` (antialiased), then the centre of side `side`.

    resized None: the images must have that size; raises BrokenImage. interpolation: bilinear or bicubic.
    """

    side: int
    resized: int | None
    interpolation: str = "bilinear"

    def __call__(self, image: Tensor) -> Tensor:
        if self.resized is not None:
            how = InterpolationMode(self.interpolation)
            image = functional.resize(image, [self.resized], how, antialias=True)
            image = functional.center_crop(image, [self.side, self.side])
            return image
        if image.shape[-2:] != (self.side, self.side):
            height, width = image.shape[-2:]
            raise BrokenImage(f"an image of {width}x{height} pixels, where image_size is {self.side}")
        return image


@dataclass(frozen=True)
class Standard:
    """A random crop, resized (bilinear, antialiased), and a flip: He et al. 2016 with Szegedy's crop."""

    side: int

    def pixels(self, image: Tensor, random: Random) -> Tensor:
        return flipped_crop(image, self.side, InterpolationMode.BILINEAR, random)

    def batch(self, inputs: Tensor, seed: int, places: Tensor) -> Tensor:
        return inputs


def flipped_crop(image: Tensor, side: int, interpolation: InterpolationMode, random: Random) -> Tensor:
    """A random crop of `image` resized to `side`, mirrored with probability 1/2."""
    top, left, height, width = crop_box(image.shape[-2], image.shape[-1], random)
    image = functional.resized_crop(image, top, left, height, width, [side, side], interpolation, antialias=True)
    return functional.horizontal_flip(image) if random.random() < 0.5 else image


def crop_box(height: int, width: int, random: Random) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop with uniform area and log-uniform ratio (Szegedy et al. 2015).

    Where none fits in ten attempts: the largest central crop whose ratio is legal.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(ATTEMPTS):
        area = height * width * random.uniform(*AREA)
        ratio = math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (height - h) // 2, (width - w) // 2, max(h, 1), max(w, 1)


def stacked(images: list[Tensor], side: int, order: torch.memory_format) -> Tensor:
    """uint8 (b, 3, side, side) in a memory order."""
    batch = torch.empty((len(images), 3, side, side), dtype=torch.uint8, memory_format=order)
    for place, image in enumerate(images):
        batch[place] = image
    return batch
