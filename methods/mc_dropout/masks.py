"""Dropout on the input channels of a layer: on activations while training, on the weight in a draw.

With the same mask both give the same output: W (z * x) = (W diag z) x. Training masks every example by itself, so that
an example sees the layer of one draw of q(W).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods.mc_dropout.layers import input_channels


def draw_mask(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> Tensor:
    """Entries 0 with probability `rate`, else 1 / (1 - rate), so that their mean is 1. On the generator's device."""
    mask = torch.empty(shape, device=generator.device)
    return mask.bernoulli_(1 - rate, generator=generator).div_(1 - rate)


def mask_inputs(layer: nn.Module, inputs: Tensor, mask: Tensor) -> Tensor:
    """inputs (n, C, H, W) of a convolution or (n, ..., C) of a linear layer, times the mask (n, C) of each example.

    All positions or tokens of an example share its mask, as they share the layer's weight. The first axis is taken
    for the examples; where a network folds windows into it, a window counts as an example while training.
    """
    if isinstance(layer, nn.Conv2d):
        return inputs * mask[:, :, None, None]
    return inputs * mask.view(len(inputs), *(1,) * (inputs.dim() - 2), -1)


def mask_weight(weight: Tensor, mask: Tensor) -> Tensor:
    """weight (out, C / groups, ...) times the mask (C,) along its input channels, group by group."""
    groups = len(mask) // weight.shape[1]
    per_group = weight.view(groups, -1, *weight.shape[1:])  # (groups, out / groups, C / groups, ...)
    return (per_group * mask.view(groups, 1, -1, *(1,) * (weight.dim() - 2))).view_as(weight)


@contextmanager
def dropout_on(network: nn.Module, names: Sequence[str], rate: float, generator: torch.Generator) -> Iterator[None]:
    """Inside, the named layers drop input channels of every example while they are in training mode.

    Forward pre-hooks, removed at the end: the network itself stays untouched.
    """

    def hook(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not layer.training:
            return None
        inputs: Tensor = args[0]
        mask = draw_mask((len(inputs), input_channels(layer)), rate, generator)
        return (mask_inputs(layer, inputs, mask.to(inputs.dtype)), *args[1:])

    handles = [network.get_submodule(name).register_forward_pre_hook(hook) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
