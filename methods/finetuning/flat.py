"""Named tensors in one piece of memory: whole-model arithmetic in one kernel, the network's shapes as views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

CHUNK = 1 << 20
"""Elements that are worked on at a time where a formula needs a temporary: 4 MiB, whatever the network's size."""


class Flat:
    """`flat`: (D,) elements of all tensors, one after the other; `views`: name -> the tensor, sharing that memory."""

    def __init__(self, shapes: Mapping[str, torch.Size], dtype: torch.dtype, device: torch.device) -> None:
        self.flat = torch.empty(sum(shape.numel() for shape in shapes.values()), dtype=dtype, device=device)
        pieces = self.flat.split([shape.numel() for shape in shapes.values()])
        self.views = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

    @classmethod
    def like(cls, other: Flat) -> Flat:
        """Uninitialised, with the names, shapes, dtype and device of `other`."""
        return cls(other.shapes(), other.flat.dtype, other.flat.device)

    @classmethod
    def copy_of(cls, tensors: Mapping[str, Tensor]) -> Flat:
        """A copy of tensors of one dtype and device (an empty float32 one of none)."""
        first = next(iter(tensors.values()), torch.empty(0))
        new = cls({name: tensor.shape for name, tensor in tensors.items()}, first.dtype, first.device)
        for name, tensor in tensors.items():
            new.views[name].copy_(tensor)
        return new

    def shapes(self) -> dict[str, torch.Size]:
        """Name -> shape, in the order of memory."""
        return {name: view.shape for name, view in self.views.items()}

    def __len__(self) -> int:
        return self.flat.numel()


def chunks(*flats: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Corresponding pieces of equally long flat tensors, at most `CHUNK` elements each."""
    return zip(*(flat.split(CHUNK) for flat in flats), strict=True)
