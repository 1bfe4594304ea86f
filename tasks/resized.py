"""Inputs that are enlarged when they are read: 50,000 images of 224x224 as float32 would be 30 GB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmark import Index, Inputs


class Resized(Inputs):
    """The inputs of `inner`, enlarged bilinearly to `side` x `side` on their device, batch by batch.

    Corners are not aligned: the scale is the same everywhere. Enlarging what is normalised equals normalising what is
    enlarged, both being linear.
    """

    def __init__(self, inner: Inputs, side: int) -> None:
        if side < max(inner.shape[2:]):
            raise ValueError(
                f"inputs of {inner.shape[2]}x{inner.shape[3]} can be enlarged, not reduced to {side}x{side}"
            )
        self._inner, self._side = inner, side

    @property
    def shape(self) -> tuple[int, int, int, int]:
        n, channels, _, _ = self._inner.shape
        return n, channels, self._side, self._side

    @property
    def device(self) -> torch.device:
        return self._inner.device

    @property
    def augments(self) -> bool:
        return self._inner.augments

    def read(self, index: Index) -> Tensor:
        return self._enlarged(self._inner.read(index))

    def read_all(self, indices: Sequence[Index]) -> Iterator[Tensor]:
        return (self._enlarged(inputs) for inputs in self._inner.read_all(indices))

    def read_for_training(self, indices: Sequence[Index], seed: int) -> Iterator[Tensor]:
        return (self._enlarged(inputs) for inputs in self._inner.read_for_training(indices, seed))

    def select(self, index: Index) -> Resized:
        return Resized(self._inner.select(index), self._side)

    def to(self, device: torch.device | str) -> Resized:
        return Resized(self._inner.to(device), self._side)

    def _enlarged(self, inputs: Tensor) -> Tensor:
        return interpolate(inputs, size=(self._side, self._side), mode="bilinear", align_corners=False)
