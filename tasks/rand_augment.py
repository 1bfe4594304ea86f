"""RandAugment: two of 14 operations for every image, on groups of images that drew the same one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from tasks.sending import per_channel, sent

Operation: TypeAlias = Callable[[Tensor, int], Tensor]
"""(uint8 images (m, C, H, W), sign -1 or 1) -> the same shape."""


@dataclass(frozen=True)
class RandAugment:
    """`layers` of 14 operations, drawn for every image, at one strength (Cubuk et al. 2020).

    Operations, strengths and rounding are those of `torchvision.transforms.v2.RandAugment`, of which the defaults are
    taken too. That class draws for a whole batch at once; here the images that drew the same operation go through it
    together, which needs at most 24 calls for a layer however large the batch is. Works on the levels 0..255: inputs
    are taken back to them by mean and std, rounded, and normalised again. What enters from outside is black.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: int = 2
    magnitude: int = 9
    """Of 31 levels, 0 to 30."""

    LEVELS: ClassVar[int] = 31

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = inputs.shape
        mean, std = per_channel(tuple(self.mean), inputs.device), per_channel(tuple(self.std), inputs.device)
        images = (255 * (inputs * std + mean)).round_().clamp_(0, 255).to(torch.uint8)
        operations = _operations(self.magnitude / (self.LEVELS - 1), height, width)
        drawn = [
            (
                torch.randint(0, len(operations), (n,), generator=generator),
                torch.where(torch.rand(n, generator=generator) < 0.5, -1, 1),
            )
            for _ in range(self.layers)
        ]
        images = _applied(images, operations, drawn)
        return (images.float() / 255 - mean) / std


def _applied(
    images: Tensor, operations: Sequence[tuple[Operation, bool]], layers: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Every layer's operation of each image. layers: what was drawn, operations (n,) and signs (n,), on the CPU, where
    the groups are made; what goes to the device is one tensor of orders for all layers."""
    if not layers:
        return images
    groups = [(operation, sign) for operation, signed in operations for sign in ((-1, 1) if signed else (1,))]
    first = torch.tensor([sum(2 if signed else 1 for _, signed in operations[:i]) for i in range(len(operations))])
    two_ways = torch.tensor([signed for _, signed in operations])
    group_of = [first[drawn] + (two_ways[drawn] & (signs == 1)) for drawn, signs in layers]
    orders = [group.argsort(stable=True) for group in group_of]
    moves = sent(torch.stack([part for order in orders for part in (order, order.argsort())]), images.device)
    for layer, group in enumerate(group_of):
        parts = images[moves[2 * layer]].split(group.bincount(minlength=len(groups)).tolist())
        done = [groups[i][0](part, groups[i][1]) for i, part in enumerate(parts) if len(part)]
        images = torch.cat(done)[moves[2 * layer + 1]] if done else images
    return images


def _operations(share: float, height: int, width: int) -> list[tuple[Operation, bool]]:
    """The operations at a share 0..1 of their greatest strength, and whether they go in two directions."""
    from torchvision.transforms.v2 import functional as f

    reach = 150 / 331 * share
    across, down = int(reach * width), int(reach * height)
    slant = math.degrees(math.atan(0.3 * share))
    return [
        (lambda images, sign: images, False),
        (lambda images, sign: _moved(images, _Motion(shear=(sign * slant, 0.0))), True),
        (lambda images, sign: _moved(images, _Motion(shear=(0.0, sign * slant))), True),
        (lambda images, sign: _moved(images, _Motion(shift=(sign * across, 0))), True),
        (lambda images, sign: _moved(images, _Motion(shift=(0, sign * down))), True),
        (lambda images, sign: _moved(images, _Motion(turn=sign * 30 * share)), True),
        (lambda images, sign: f.adjust_brightness(images, brightness_factor=1 + sign * 0.9 * share), True),
        (lambda images, sign: f.adjust_saturation(images, saturation_factor=1 + sign * 0.9 * share), True),
        (lambda images, sign: f.adjust_contrast(images, contrast_factor=1 + sign * 0.9 * share), True),
        (lambda images, sign: _sharpened(images, 1 + sign * 0.9 * share), True),
        (lambda images, sign: f.posterize(images, bits=round(8 - 4 * share)), False),
        (lambda images, sign: f.solarize(images, threshold=255 * (1 - share)), False),
        (lambda images, sign: _stretched(images), False),
        (lambda images, sign: f.equalize(images), False),
    ]


@dataclass(frozen=True)
class _Motion:
    """Where pixels go: shear in degrees about the corner, shift in pixels, turn in degrees about the centre."""

    shear: tuple[float, float] = (0.0, 0.0)
    shift: tuple[int, int] = (0, 0)
    turn: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """As torchvision moves them, to the nearest pixel, black outside."""
        from torchvision.transforms.v2 import functional as f

        out: Tensor
        if self.turn:
            out = f.rotate(images, angle=self.turn)
        else:
            corner = [0.0, 0.0] if any(self.shear) else None
            out = f.affine(
                images, angle=0.0, translate=list(self.shift), scale=1.0, shear=list(self.shear), center=corner
            )
        return out


def _moved(images: Tensor, motion: _Motion) -> Tensor:
    """torchvision would build its grid anew for every call, and wait for the device to have it."""
    height, width = images.shape[-2:]
    source, inside = _sources(motion, height, width, images.device)
    flat = images.reshape(-1, height * width)
    return flat.gather(1, source.expand(len(flat), -1)).mul_(inside).view_as(images)


@functools.lru_cache(maxsize=256)
def _sources(motion: _Motion, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every pixel of the result the place in the image that it comes from, int64 (H W,), and uint8 1, or 0 where
    that is outside: an image of places, moved on the CPU. Float32 holds them exactly up to 2^24."""
    places = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    source = motion(places).flatten().long() - 1
    return sent(source.clamp(min=0), device), sent((source >= 0).to(torch.uint8), device)


def _sharpened(images: Tensor, factor: float) -> Tensor:
    """Away from (factor > 1) or towards the image under a 3x3 blur with weight 5 in the middle and 1 around; the border
    stays. As in torchvision, whose kernel is sent to the device anew with every call."""
    channels = images.shape[1]
    out = images.float()
    inner = out[..., 1:-1, 1:-1]
    blurred = conv2d(out, _blur(images.device).expand(channels, 1, 3, 3), groups=channels).round_()
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return out.clamp_(0, 255).to(torch.uint8)


@functools.cache
def _blur(device: torch.device) -> Tensor:
    around, middle = 1 / 13, 5 / 13
    kernel = [[around, around, around], [around, middle, around], [around, around, around]]
    return sent(torch.tensor(kernel), device)


def _stretched(images: Tensor) -> Tensor:
    """Every channel to the full range 0..255, unless it is flat. As in torchvision, whose assignment by a mask is
    written here as a choice between values."""
    levels = images.float()
    low, high = levels.amin((-2, -1), keepdim=True), levels.amax((-2, -1), keepdim=True)
    flat = high == low
    scale = high.sub_(low).mul_(1 / 255).masked_fill_(flat, 1)
    return levels.sub_(low.masked_fill(flat, 0)).div_(scale).clamp_(0, 255).to(torch.uint8)
