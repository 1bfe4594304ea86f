"""What the posteriors of compressing methods share: the type of their labels, and which tensors these stand for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from benchmark import CorruptBitstream, weights_of


def symbol_dtype(highest: int) -> torch.dtype:
    """The narrowest type for the symbols 0..highest."""
    return next(dtype for dtype in (torch.uint8, torch.int16, torch.int32) if highest <= torch.iinfo(dtype).max)


def parameters_beside(rest: Mapping[str, Tensor], network: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes, in the network's order, of the parameters that are not in `rest`: the compressed ones.

    rest: the stored point values, by name.

    Raises:
        CorruptBitstream: they are not those of this network, miss a buffer, or leave no parameter.
    """
    own = weights_of(network)
    if any(name not in own or own[name].shape != tensor.shape for name, tensor in rest.items()):
        raise CorruptBitstream("the stored point values are those of another architecture")
    shapes = {name: value.shape for name, value in network.named_parameters() if name not in rest}
    if not shapes or own.keys() - rest.keys() - shapes.keys():
        raise CorruptBitstream("the stored point values leave no parameter to be compressed, or miss a buffer")
    return shapes
