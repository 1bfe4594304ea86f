"""The pull that brings free weights near the values of the last iteration, so that the next one moves them little."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.weight_fixing.candidates import GAMMA

TEMPERATURE = 0.05
PAIRS = 1 << 22
"""Pairs of weight and value that are worked on at a time: 16 MiB per temporary, whatever the network's size."""


@torch.no_grad()
def attraction(w: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over w (n,), n >= 1, of sum_j softmin_j(D_j / 0.05) D_j, (), and its gradient (n,); values: (K,), K >= 1.

    D_j = |w - c_j| / |w|; for |w| <= 2^-7: |w - c_j|, and 0 for c_j = 0. Subia-Waud, Dasmahapatra, "Weight Fixing
    Networks" (ECCV 2022, arXiv 2210.13554). In closed form: no graph over all pairs is ever held.
    """
    slope, totals = torch.empty_like(w), []
    size = max(1, PAIRS // len(values))
    for part, out in zip(w.split(size), slope.split(size), strict=True):
        totals.append(_pull(part, values, out))
    return torch.stack(totals).sum() / len(w), slope.div_(len(w))


def _pull(w: Tensor, values: Tensor, slope: Tensor) -> Tensor:
    """Sum over w (m,), (); its gradient is written to slope (m,)."""
    w, small = w[:, None], (w.abs() <= GAMMA)[:, None]
    scale = w.abs().masked_fill_(small, 1)
    gap = w - values  # (m, K)
    zero = small & (values == 0)
    distance = gap.abs().div_(scale).masked_fill_(zero, 0)
    share = (distance / -TEMPERATURE).softmax(1)
    mean = (share * distance).sum(1, keepdim=True)
    of_scale = w.sign().masked_fill_(small, 0)  # d|w|/dw where distances are relative
    each = gap.sign_().sub_(distance * of_scale).div_(scale).masked_fill_(zero, 0)  # dD/dw
    weight = distance.sub_(mean).div_(-TEMPERATURE).add_(1).mul_(share)
    torch.sum(each.mul_(weight), 1, out=slope)
    return mean.sum()
