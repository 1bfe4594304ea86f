"""The augmentation of DeiT (Touvron et al. 2021): bicubic crop, flip, RandAugment, random erasing of pixels."""

from __future__ import annotations

import math
import random as global_random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from tasks.image_folder.transforms import ATTEMPTS, example_random, flipped_crop

RECIPE = "rand-m9-mstd0.5-inc1"
"""timm's name: two operations out of 15, each applied with probability 1/2, of a magnitude normal around 9 with
standard deviation 0.5, in the variant in which every operation distorts more with magnitude."""

GREY = (124, 116, 104)
"""What enters where an image is moved: ImageNet's mean."""

ERASED = 0.25
"""Probability that a rectangle of an example is erased; of 2 % to a third of it, sides 0.3 to 1/0.3 to each other
(Zhong et al. 2020 with timm's bounds), filled with standard normal noise."""

ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = 0.3


@dataclass(frozen=True)
class Deit:
    """RandAugment replaces colour jitter, as in the recipe; mixing of examples and label smoothing are the method's.

    RandAugment is timm's, which the recipe names, on Pillow images; see `_global_state`.
    """

    side: int

    def pixels(self, image: Tensor, random: Random) -> Tensor:
        image = flipped_crop(image, self.side, InterpolationMode.BICUBIC, random)
        pillow = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        with _global_state(random):
            pillow = _rand_augment(self.side)(pillow)
        return torch.from_numpy(np.array(pillow)).permute(2, 0, 1)

    def batch(self, inputs: Tensor, seed: int, places: Tensor) -> Tensor:
        return erased(inputs, seed, places)


def erased(inputs: Tensor, seed: int, places: Tensor) -> Tensor:
    """Normalised inputs (b, C, H, W), rectangles of some replaced by noise, in place. The noise is made on the device
    by a generator of the example's own."""
    height, width = inputs.shape[-2:]
    noise = torch.Generator(inputs.device)
    for number, place in enumerate(places.tolist()):
        random = example_random(seed, place, "erase")
        box = erased_box(height, width, random) if random.random() < ERASED else None
        if box is not None:
            top, left, h, w = box
            noise.manual_seed(random.getrandbits(62))
            patch = torch.randn((inputs.shape[1], h, w), generator=noise, device=inputs.device)
            inputs[number, :, top : top + h, left : left + w] = patch
    return inputs


def erased_box(height: int, width: int, random: Random) -> tuple[int, int, int, int] | None:
    """(top, left, height, width), or None where none fits in ten attempts."""
    bound = math.log(ERASED_RATIO)
    for _ in range(ATTEMPTS):
        area = height * width * random.uniform(*ERASED_AREA)
        ratio = math.exp(random.uniform(bound, -bound))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    return None


@lru_cache(maxsize=8)
def _rand_augment(side: int) -> Any:
    from timm.data.auto_augment import rand_augment_transform

    settings = {"translate_const": int(0.45 * side), "img_mean": GREY, "interpolation": Image.Resampling.BICUBIC}
    return rand_augment_transform(RECIPE, settings)


@contextmanager
def _global_state(random: Random) -> Iterator[None]:
    """The global generators of Python and numpy, which timm draws from, seeded by `random`; afterwards as before."""
    python, numpy = global_random.getstate(), np.random.get_state()  # noqa: NPY002
    global_random.seed(random.getrandbits(64))
    np.random.seed(random.getrandbits(32))  # noqa: NPY002
    try:
        yield
    finally:
        global_random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
