"""One split of a data set: inputs and labels, read in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.inputs import Index, Inputs, TensorInputs

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of several processes trains on. A batch is cut into `parts` that differ in size
    by at most one, the larger ones first; process `rank` of `size` has the next parts / size of them.

    Raises:
        ValueError: `parts` is no multiple of `size`.
    """

    rank: int
    size: int
    parts: int

    def __post_init__(self) -> None:
        if self.parts % self.size:
            raise ValueError(f"{self.parts} parts of a batch cannot be dealt out evenly to {self.size} processes")

    @property
    def first(self) -> int:
        """The number of its first part."""
        return self.rank * self.each

    @property
    def each(self) -> int:
        """How many parts it is."""
        return self.parts // self.size

    def of(self, n: int) -> slice:
        """Its places in a batch of `n`."""
        small, larger = divmod(n, self.parts)
        start, stop = (small * part + min(part, larger) for part in (self.first, self.first + self.each))
        return slice(start, stop)


class Split:
    """Inputs (n, C, H, W) and labels (n,) int64, on one device, with an optional training augmentation.

    inputs: a float32 tensor, or `Inputs` that are read batch by batch. augment(inputs, generator): of a batch of
    normalised inputs on the device; the CPU generator is the batch's own.

    Raises:
        ValueError: shapes or dtypes differ from the above, or the split is empty.
    """

    def __init__(self, inputs: Tensor | Inputs, labels: Tensor, augment: Augment | None = None) -> None:
        self._inputs = inputs if isinstance(inputs, Inputs) else TensorInputs(inputs)
        if labels.dtype != torch.int64 or labels.shape != (len(self._inputs),):
            raise ValueError(f"labels must be int64 ({len(self._inputs)},); got {labels.dtype} {tuple(labels.shape)}")
        if len(labels) == 0:
            raise ValueError("a split needs at least one example")
        self.labels, self.augment = labels, augment

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where inputs and labels are when they are read."""
        return self._inputs.device

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the inputs: (n, C, H, W)."""
        return self._inputs.shape

    @property
    def inputs(self) -> Tensor:
        """All inputs, float32 (n, C, H, W), not augmented. For large data take some of them: `split.first(64).inputs`,
        or go through `batches`."""
        return self._inputs.read(slice(0, len(self)))

    def to(self, device: torch.device | str) -> Split:
        """The same split on another device (itself when it is there already)."""
        if self.device == torch.device(device):
            return self
        return Split(self._inputs.to(device), self.labels.to(device), self.augment)

    def first(self, n: int) -> Split:
        """The first min(n, len) examples, without copying and without augmentation."""
        return self.select(slice(0, min(n, len(self))))

    def select(self, index: Index) -> Split:
        """The examples of these places, without augmentation. index: a slice, or int64 (m,)."""
        labels = self.labels[index] if isinstance(index, slice) else self.labels[index.to(self.labels.device)]
        return Split(self._inputs.select(index), labels)

    def batch_length(self, batch_size: int, number: int) -> int:
        """Examples of the training batch `number`, from 0, of a pass."""
        small, larger = divmod(len(self), self.steps(batch_size))
        return small + (number < larger)

    def steps(self, batch_size: int) -> int:
        """Batches per pass; the last may be smaller."""
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, labels) in stored order, not augmented; the last batch may be smaller."""
        places = [slice(start, min(start + batch_size, len(self))) for start in range(0, len(self), batch_size)]
        for place, inputs in zip(places, self._inputs.read_all(places), strict=True):
            yield inputs, self.labels[place]

    def training_batches(
        self, batch_size: int, generator: torch.Generator, skip: int = 0, share: Share | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled, augmented pass. The CPU `generator` decides order and augmentation; the batches of a pass
        differ in size by at most one, so that no batch is too small for batch statistics.

        skip: leave out that many batches at the beginning, without reading them; the others are what they would be.
        share: only this part of every batch, with the numbers that it has in the whole one. Examples outside of it are
        read only where `augment` needs the whole batch.
        """
        order = torch.randperm(len(self), generator=generator)
        seed = self._augmentation_seed(generator)
        indices = torch.tensor_split(order, self.steps(batch_size))[skip:]
        labels = self.labels[order.to(self.labels.device)].tensor_split(self.steps(batch_size))[skip:]
        if share is not None and self.augment is None:
            indices = tuple(index[share.of(len(index))] for index in indices)
        batches = self._inputs.read_for_training(indices, seed)
        for number, (inputs, own) in enumerate(zip(batches, labels, strict=True), start=skip):
            if self.augment is not None:
                inputs = self.augment(inputs, torch.Generator().manual_seed(seed + number))
            if share is None:
                yield inputs, own
            else:
                place = share.of(len(own))
                yield (inputs if self.augment is None else inputs[place]), own[place]

    def _augmentation_seed(self, generator: torch.Generator) -> int:
        if self.augment is None and not self._inputs.augments:
            return 0
        return int(torch.randint(2**62, (), generator=generator))
