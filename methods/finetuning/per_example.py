"""Layers whose weights differ from example to example: one kernel for the whole batch.

"Example" is the leading index of the input. Weights carry it in front: a linear weight is (B, O, I), a filter bank
(B, O, I/groups, k...), a bias or gain (B, C). Inputs may have further indices (tokens, space) behind the leading one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Conv = Callable[..., Tensor]
"""torch.conv1d, conv2d or conv3d."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out_i = weight_i x_i + bias_i. x (B, ..., I), weight (B, O, I), bias (B, O); returns (B, ..., O)."""
    rows = x.reshape(len(x), -1, x.shape[-1])  # (B, R, I)
    transposed = weight.transpose(1, 2)
    out = torch.bmm(rows, transposed) if bias is None else torch.baddbmm(bias[:, None], rows, transposed)
    return out.reshape(*x.shape[:-1], weight.shape[1])


def conv(
    function: Conv, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Sequence[Any], groups: int
) -> Tensor:
    """Convolve example i with filters weight_i, as groups of one convolution. x (B, C, ...), weight
    (B, O, C/groups, k...), bias (B, O); settings: stride, padding, dilation. Returns (B, O, ...)."""
    examples, outputs = weight.shape[:2]
    merged = x.reshape(1, -1, *x.shape[2:])  # (1, B C, ...)
    filters = weight.reshape(examples * outputs, *weight.shape[2:])
    out = function(merged, filters, None if bias is None else bias.reshape(-1), *settings, groups * examples)
    return out.reshape(examples, outputs, *out.shape[2:])


def affine(x: Tensor, gain: Tensor | None, shift: Tensor | None, *, channels_last: bool) -> Tensor:
    """gain_i x_i + shift_i for a normalised x: gains (B, C) along dimension 1 of x, or with `channels_last` (B, ...)
    along the trailing dimensions, as layer norm has them."""

    def shaped(value: Tensor) -> Tensor:
        missing = (1,) * (x.dim() - value.dim())
        return (
            value.view(len(value), *missing, *value.shape[1:]) if channels_last else value.view(*value.shape, *missing)
        )

    if gain is not None:
        x = x * shaped(gain)
    return x if shift is None else x + shaped(shift)
