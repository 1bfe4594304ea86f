"""Noisy images for training: uniform noise of random strength, some blurred, within the range of the training data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmark import Split

UNIT = 16 / 255
RADIUS = 5
"""Of the largest Gaussian filter; the smallest has radius 1."""
WIDEST = 5.0
"""Upper end of the filters' standard deviation, in pixels."""
BATCH_SIZE = 1024


class Noise:
    """x + Uniform(-e, e) per pixel, e ~ Uniform(low, high) x 16/255 of the range, per image; then, with probability
    `blur`, a Gaussian filter (side 3, 5, .. 11, deviation ~ Uniform(0, 5)); then cut to the range.

    The range is that of the training data, channel by channel: the lowest and the highest value in them stand for
    black and white, whatever the normalisation.
    """

    def __init__(
        self,
        train: Split,
        low: float,
        high: float,
        blur: float,
        choices: torch.Generator,
        pixels: torch.Generator,
    ) -> None:
        """choices: on the CPU, one decision per image; pixels: on the data's device."""
        self._low, self._high, self._blur = low, high, blur
        self._choices, self._pixels = choices, pixels
        self.black, self.white = _range_of(train)  # (C, 1, 1)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """A noisy version of each of `inputs` (n, C, H, W), float32, in full precision under autocast too."""
        strength = self._low + (self._high - self._low) * torch.rand(len(inputs), generator=self._choices)
        sides = torch.randint(1, RADIUS + 1, (len(inputs),), generator=self._choices)
        widths = WIDEST * torch.rand(len(inputs), generator=self._choices)
        blurred = torch.nonzero(torch.rand(len(inputs), generator=self._choices) < self._blur)[:, 0]
        noise = torch.rand(inputs.shape, device=inputs.device, generator=self._pixels) * 2 - 1
        scale = (UNIT * strength).to(inputs.device)[:, None, None, None] * (self.white - self.black)
        noisy = torch.addcmul(inputs, noise, scale)
        if len(blurred):  # known on the CPU: nothing waits for the device
            chosen = blurred.to(inputs.device)
            noisy[chosen] = gaussian_filter(noisy[chosen], sides[blurred], widths[blurred])
        return torch.clamp(noisy, self.black, self.white)


def _range_of(split: Split) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value of every channel, (C, 1, 1) each; one pass over the split."""
    ends = [(inputs.amin((0, 2, 3)), inputs.amax((0, 2, 3))) for inputs, _ in split.batches(BATCH_SIZE)]
    low, high = (torch.stack(end) for end in zip(*ends, strict=True))
    return low.amin(0)[:, None, None], high.amax(0)[:, None, None]


def gaussian_filter(images: Tensor, radius: Tensor, deviation: Tensor) -> Tensor:
    """Each of `images` (n, C, H, W) under its own filter: radius (n,) integers up to 5, deviation (n,) in pixels.

    Beyond the edge the outermost pixels go on.
    """
    n, channels, height, width = images.shape
    offsets = torch.arange(-RADIUS, RADIUS + 1)
    weights = torch.exp(-0.5 * (offsets / deviation.clamp(min=1e-3)[:, None]).square())
    weights = weights * (offsets.abs() <= radius[:, None])
    kernel = (weights / weights.sum(1, keepdim=True)).to(images)  # (n, 11)
    filters = kernel.repeat_interleave(channels, 0)[:, None, None]  # (n C, 1, 1, 11)
    row = functional.pad(images.reshape(1, n * channels, height, width), [RADIUS] * 4, mode="replicate")
    with torch.autocast(images.device.type, enabled=False):
        row = functional.conv2d(row, filters, groups=n * channels)
        row = functional.conv2d(row, filters.transpose(2, 3), groups=n * channels)
    return row.view(images.shape)
