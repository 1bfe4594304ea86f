"""Random translation, the augmentation of images of centred objects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tasks.sending import sent


@dataclass(frozen=True)
class Shift:
    """Moves every image by its own uniform offset in {-pixels..pixels}^2; pixels that enter hold `fill`.

    Fits `benchmark.Augment`: inputs (n, C, H, W) on any device, offsets from the CPU generator. A class and
    not a closure, so that a split can be pickled into a worker.
    """

    pixels: int
    fill: float

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        n, channels, height, width = inputs.shape
        offsets = sent(torch.randint(0, 2 * self.pixels + 1, (2, n, 1), generator=generator), inputs.device)
        rows = offsets[0] + torch.arange(height, device=inputs.device)  # (n, H)
        columns = offsets[1] + torch.arange(width, device=inputs.device)  # (n, W)
        image = torch.arange(n, device=inputs.device).view(n, 1, 1, 1)
        channel = torch.arange(channels, device=inputs.device).view(1, channels, 1, 1)
        padded = pad(inputs, [self.pixels] * 4, value=self.fill)  # (n, C, H + 2p, W + 2p)
        return padded[image, channel, rows.view(n, 1, height, 1), columns.view(n, 1, 1, width)]
