"""One split of a data set, held as tensors and read in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Split:
    """Inputs (n, C, H, W) float32 and labels (n,) int64, on one device, with an optional training augmentation.

    Raises:
        ValueError: shapes or dtypes differ from the above, or the split is empty.
    """

    inputs: Tensor
    labels: Tensor
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if self.inputs.dim() != 4 or self.inputs.dtype != torch.float32:
            raise ValueError(f"inputs must be float32 (n, C, H, W); got {self.inputs.dtype} {tuple(self.inputs.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            raise ValueError(
                f"labels must be int64 ({len(self.inputs)},); got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if len(self.labels) == 0:
            raise ValueError("a split needs at least one example")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """The same split on another device (itself when it is there already)."""
        if self.inputs.device == torch.device(device):
            return self
        return Split(self.inputs.to(device), self.labels.to(device), self.augment)

    def first(self, n: int) -> Split:
        """The first min(n, len) examples, without copying and without augmentation."""
        return Split(self.inputs[:n], self.labels[:n])

    def steps(self, batch_size: int) -> int:
        """Batches per pass; the last may be smaller."""
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, labels) in stored order, not augmented; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            yield self.inputs[start : start + batch_size], self.labels[start : start + batch_size]

    def training_batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled, augmented pass. The CPU `generator` decides order and augmentation; the batches of a pass
        differ in size by at most one, so that no batch is too small for batch statistics."""
        order = torch.randperm(len(self), generator=generator)
        for index in torch.tensor_split(order, self.steps(batch_size)):
            index = index.to(self.inputs.device)
            inputs = self.inputs[index]
            yield (self.augment(inputs, generator) if self.augment else inputs), self.labels[index]
