"""mixup and CutMix: a batch, or each part of one, mixed with its own reverse, labels in proportion."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmark import seed_from

SWITCH = 0.5
"""Probability of CutMix where both are asked for."""


@dataclass(frozen=True)
class Batch:
    """Inputs (b, C, H, W) with labels (b,), and after mixing with `partners` (b,): the labels of what was mixed in.

    share: how much of an input is its own, in 0..1; the rest belongs to the partner.
    """

    inputs: Tensor
    labels: Tensor
    partners: Tensor | None = None
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def loss(self, logits: Tensor, label_smoothing: float) -> Tensor:
        """Mean cross-entropy () of the logits (b, K), in their dtype.

        It is linear in the target: the mean of both labels' losses is the loss of the mixed, smoothed target.
        """
        own = cross_entropy(logits, self.labels, label_smoothing=label_smoothing)
        if self.partners is None:
            return own
        others = cross_entropy(logits, self.partners, label_smoothing=label_smoothing)
        return self.share * own + (1 - self.share) * others


@dataclass(frozen=True)
class Mixing:
    """mixup (Zhang et al., ICLR 2018, arXiv 1710.09412) and CutMix (Yun et al., ICCV 2019, arXiv 1905.04899) with the
    habits of the DeiT recipe: one share per batch, drawn from Beta(a, a), each example's partner is its place in the
    reversed batch, and where both are on, a coin decides for each batch. A part of a batch is mixed like a batch of its
    own, as each process of a distributed DeiT training does it.

    mixup, cutmix: the a of each, 0 for none. The random numbers of step t are those of `seed`, t and the part alone, so
    that a resumed run needs no state, nor does it matter which device has the part; they are drawn on the CPU, so that
    nothing waits for a GPU.
    """

    mixup: float
    cutmix: float
    seed: int

    def __call__(self, inputs: Tensor, labels: Tensor, t: int, part: int | None = None) -> Batch:
        """The batch of step t, or one part of it, mixed. What it is given is not changed."""
        if not (self.mixup or self.cutmix):
            return Batch(inputs, labels)
        draws = Random(seed_from(self.seed, t) if part is None else seed_from(self.seed, t, part))
        cut = self.cutmix > 0 and (self.mixup == 0 or draws.random() < SWITCH)
        strength = self.cutmix if cut else self.mixup
        share = draws.betavariate(strength, strength)
        if not cut:
            return Batch(torch.lerp(inputs.flip(0), inputs, share), labels, labels.flip(0), share)
        rows, columns = _box(inputs.shape[-2], inputs.shape[-1], share, draws)
        mixed = inputs.clone()
        mixed[..., rows, columns] = inputs[..., rows, columns].flip(0)
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return Batch(mixed, labels, labels.flip(0), 1 - area / (inputs.shape[-2] * inputs.shape[-1]))


def _box(height: int, width: int, share: float, draws: Random) -> tuple[slice, slice]:
    """Rows and columns of a box of 1 - share of the area, around a uniform pixel, cut off at the border."""
    side = (1 - share) ** 0.5
    return _span(height, side, draws), _span(width, side, draws)


def _span(length: int, side: float, draws: Random) -> slice:
    half, centre = int(length * side) // 2, draws.randrange(length)
    return slice(max(centre - half, 0), min(centre + half, length))
