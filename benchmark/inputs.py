"""The inputs of a split: tensors in memory, bytes in memory, or files that are read while training goes on."""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Self, TypeAlias

import torch
from torch import Tensor

from benchmark.operation import LOADERS, MOST_LOADERS

Index: TypeAlias = "Tensor | slice"
"""Which examples: int64 (b,) on the CPU, or a slice of step 1."""


class Inputs(ABC):
    """n inputs of one shape, read as float32 (b, C, H, W) on `device`, in the normalisation of the test set.

    A task whose data do not fit as float32 tensors writes one: the rest of the suite and every method see a `Split`.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """(n, C, H, W)."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where what is read ends up."""

    @abstractmethod
    def read(self, index: Index) -> Tensor:
        """Some of the inputs as at test time, in the order of `index`."""

    @abstractmethod
    def select(self, index: Index) -> Self:
        """The inputs of these places alone. Reads nothing."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same, read to another device."""

    @property
    def augments(self) -> bool:
        """Whether `read_for_training` differs from `read_all`: inputs that augment while they decode."""
        return False

    def read_all(self, indices: Sequence[Index]) -> Iterator[Tensor]:
        """`read` of each of `indices` in turn; may read ahead."""
        return (self.read(index) for index in indices)

    def read_for_training(self, indices: Sequence[Index], seed: int) -> Iterator[Tensor]:
        """As `read_all`, augmented. What an example becomes depends on `seed` and its place in the split alone, so that
        neither workers nor a resumed epoch change a number."""
        return self.read_all(indices)

    def __len__(self) -> int:
        return self.shape[0]


class TensorInputs(Inputs):
    """A float32 tensor (n, C, H, W). Slices are views."""

    def __init__(self, tensor: Tensor) -> None:
        if tensor.dim() != 4 or tensor.dtype != torch.float32:
            raise ValueError(f"inputs must be float32 (n, C, H, W); got {tensor.dtype} {tuple(tensor.shape)}")
        self._tensor = tensor

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return _four(self._tensor)

    @property
    def device(self) -> torch.device:
        return self._tensor.device

    def read(self, index: Index) -> Tensor:
        return _taken(self._tensor, index)

    def read_all(self, indices: Sequence[Index]) -> Iterator[Tensor]:
        return (_taken(self._tensor, index) for index in _on(self.device, indices))

    def select(self, index: Index) -> TensorInputs:
        return TensorInputs(_taken(self._tensor, index))

    def to(self, device: torch.device | str) -> TensorInputs:
        return TensorInputs(self._tensor.to(device))


class Pixels(Inputs):
    """Bytes (n, C, H, W) uint8, normalised per channel when they are read: (x / 255 - mean) / std.

    A quarter of the memory of `TensorInputs`, on the device too, where the arithmetic costs next to nothing.
    """

    def __init__(self, pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
        if pixels.dim() != 4 or pixels.dtype != torch.uint8:
            raise ValueError(f"pixels must be uint8 (n, C, H, W); got {pixels.dtype} {tuple(pixels.shape)}")
        if not len(mean) == len(std) == pixels.shape[1] or min(std) <= 0:
            raise ValueError(f"{pixels.shape[1]} channels need as many means and positive deviations: {mean}, {std}")
        self._pixels, self._mean, self._std = pixels, tuple(mean), tuple(std)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return _four(self._pixels)

    @property
    def device(self) -> torch.device:
        return self._pixels.device

    def read(self, index: Index) -> Tensor:
        return normalised(_taken(self._pixels, index), self._mean, self._std)

    def read_all(self, indices: Sequence[Index]) -> Iterator[Tensor]:
        taken = (_taken(self._pixels, index) for index in _on(self.device, indices))
        return (normalised(pixels, self._mean, self._std) for pixels in taken)

    def select(self, index: Index) -> Pixels:
        return Pixels(_taken(self._pixels, index), self._mean, self._std)

    def to(self, device: torch.device | str) -> Pixels:
        return Pixels(self._pixels.to(device), self._mean, self._std)


def loader_processes() -> int:
    """How many processes read and decode files beside the one that trains: the operational setting `loaders`, else one
    per CPU that this process may use but one, at most 16; 0 on a single CPU. No number depends on it."""
    given = os.environ.get(LOADERS)
    return int(given) if given else min(len(os.sched_getaffinity(0)) - 1, MOST_LOADERS)


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (b, C, H, W) as float32 (x / 255 - mean) / std, on its device."""
    return pixels.float().sub_(_of_channels(tuple(mean), pixels.device)).div_(_of_channels(tuple(std), pixels.device))


@functools.cache
def _of_channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """255 times the values, (C, 1, 1); made once, because sending them anew with every batch would wait for the
    device."""
    return torch.tensor([255 * value for value in values], device=device).view(-1, 1, 1)


def _four(tensor: Tensor) -> tuple[int, int, int, int]:
    n, channels, height, width = tensor.shape
    return n, channels, height, width


def _taken(tensor: Tensor, index: Index) -> Tensor:
    return tensor[index] if isinstance(index, slice) else tensor[index.to(tensor.device)]


def _on(device: torch.device, indices: Sequence[Index]) -> Sequence[Index]:
    """Indices on a device, moved together: one transfer for an epoch, where one per batch would wait for the device."""
    if device.type == "cpu" or any(isinstance(index, slice) for index in indices) or not indices:
        return indices
    tensors = [index for index in indices if not isinstance(index, slice)]
    moved: Sequence[Index] = torch.cat(tensors).to(device).split([len(index) for index in tensors])
    return moved
