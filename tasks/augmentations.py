"""The augmentations of the CIFAR papers: flips and crops, CutOut. Every image gets its own.

Each fits `benchmark.Augment`: a batch (n, C, H, W) of normalised inputs on any device, random numbers from the CPU
generator. Frozen classes and not closures, so that a split can be pickled into a worker. Flip, crop and CutOut are own
code: the classes of torchvision's transforms v2 draw one offset for a whole batch, and image by image they would be
slower than the training step. RandAugment is in tasks/rand_augment.py.

On CUDA nothing here makes the host wait for the device: what a batch draws is sent once, from pinned memory, and
constants stay on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import Augment
from tasks.sending import per_channel, sent


@dataclass(frozen=True)
class InTurn:
    """Several augmentations, one after the other, on one generator."""

    parts: tuple[Augment, ...]

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        for part in self.parts:
            inputs = part(inputs, generator)
        return inputs


@dataclass(frozen=True)
class FlipCrop:
    """A mirror image in half of the cases, and a crop of the image padded by `pixels` on every side.

    He et al. 2016, section 4.2: 4 pixels of CIFAR's 32, padded with black. fill: the value of black, per channel, after
    normalisation.
    """

    pixels: int
    fill: tuple[float, ...]

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        n, channels, height, width = inputs.shape
        offsets = torch.randint(-self.pixels, self.pixels + 1, (2, n, 1), generator=generator)
        flipped = torch.rand(n, 1, generator=generator) < 0.5
        rows = offsets[0] + torch.arange(height)  # (n, H), of the image before cropping
        columns = offsets[1] + torch.arange(width)  # (n, W)
        columns = torch.where(flipped, width - 1 - columns, columns)
        rows, columns = sent(torch.cat([rows, columns], 1), inputs.device).split([height, width], 1)
        inside = _within(rows, height).view(n, 1, height, 1) & _within(columns, width).view(n, 1, 1, width)
        image = torch.arange(n, device=inputs.device).view(n, 1, 1, 1)
        channel = torch.arange(channels, device=inputs.device).view(1, channels, 1, 1)
        row = rows.clamp(0, height - 1).view(n, 1, height, 1)
        column = columns.clamp(0, width - 1).view(n, 1, 1, width)
        black = per_channel(tuple(self.fill), inputs.device)
        return torch.where(inside, inputs[image, channel, row, column], black)


@dataclass(frozen=True)
class CutOut:
    """A square of `side` pixels is set to 0, the mean after normalisation.

    DeVries and Taylor 2017: the centre is uniform over the image, so that the square may be cut by the border.
    """

    side: int

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = inputs.shape
        centres = [torch.randint(0, side, (n, 1), generator=generator) for side in (height, width)]
        top, left = sent(torch.stack(centres), inputs.device) - self.side // 2  # (n, 1) each
        rows = _within(torch.arange(height, device=inputs.device) - top, self.side)  # (n, H)
        columns = _within(torch.arange(width, device=inputs.device) - left, self.side)  # (n, W)
        return inputs.masked_fill(rows.view(n, 1, height, 1) & columns.view(n, 1, 1, width), 0)


def _within(places: Tensor, n: int) -> Tensor:
    return (places >= 0) & (places < n)
