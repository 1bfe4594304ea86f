"""Inputs that are decoded and augmented by processes while training goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from benchmark import Index, Inputs, MissingData, normalised
from tasks.image_folder.ahead import copied_ahead
from tasks.image_folder.decode import BrokenImage, Images
from tasks.image_folder.transforms import Augmentation, View, example_random, stacked
from tasks.image_folder.workers import Workers

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training images on the scale 0..1; what pretrained networks expect."""

CHUNK = 64
"""Examples that `read` has decoded by one process at a time."""

Call: TypeAlias = "tuple[list[int], int | None]"
"""Places in the split, and the seed of the augmentation; None: as at test time. Plain integers: a forked process (every
phase of a run is one) cannot send tensors to its workers, the thread that serves them stayed behind."""


class ImageStream(Inputs):
    """Images read batch by batch, normalised by ImageNet's mean and deviation on the device.

    images: where pixels come from. rows: int64 (n,), which of them; all when None. data_set: its name, for the error
    message about a broken file. channels_last: the memory order of what is read; contiguous otherwise.

    On CUDA, bytes travel from pinned memory on a stream of their own, one batch ahead of the one in use.
    """

    def __init__(
        self,
        images: Images,
        view: View,
        data_set: str,
        *,
        rows: Tensor | None = None,
        augmentation: Augmentation | None = None,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> None:
        self._rows = torch.arange(len(images)) if rows is None else rows.long()
        self._images, self._view, self._augmentation, self._data_set = images, view, augmentation, data_set
        self._device, self._channels_last = torch.device(device), channels_last
        on_cuda = self._device.type == "cuda"
        # Decoders write channels last: keeping that is a plain copy, and a GPU changes it in no time.
        order = torch.channels_last if channels_last or on_cuda else torch.contiguous_format
        self._workers = Workers(_Decode(images, self._rows, view, augmentation, order, data_set), pin=on_cuda)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self._rows), 3, self._view.side, self._view.side

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def augments(self) -> bool:
        return self._augmentation is not None

    def read(self, index: Index) -> Tensor:
        """Raises:
        MissingData: an image is broken.
        """
        places = self._places(index)
        parts = list(self.read_all(places.split(CHUNK))) if len(places) else []
        return torch.cat(parts) if parts else torch.empty((0, *self.shape[1:]), device=self._device)

    def read_all(self, indices: Sequence[Index]) -> Iterator[Tensor]:
        return self._pass(indices, None)

    def read_for_training(self, indices: Sequence[Index], seed: int) -> Iterator[Tensor]:
        return self._pass(indices, seed if self.augments else None)

    def select(self, index: Index) -> ImageStream:
        """Without augmentation."""
        return self._like(self._rows[self._places(index)], None, self._device)

    def to(self, device: torch.device | str) -> ImageStream:
        if torch.device(device) == self._device:
            return self
        return self._like(self._rows, self._augmentation, torch.device(device))

    def _like(self, rows: Tensor, augmentation: Augmentation | None, device: torch.device) -> ImageStream:
        return ImageStream(
            self._images,
            self._view,
            self._data_set,
            rows=rows,
            augmentation=augmentation,
            device=device,
            channels_last=self._channels_last,
        )

    def _places(self, index: Index) -> Tensor:
        """int64 (b,), on the CPU."""
        if isinstance(index, slice):
            return torch.arange(len(self))[index]
        return index.cpu()

    def _pass(self, indices: Sequence[Index], seed: int | None) -> Iterator[Tensor]:
        places = [self._places(index) for index in indices]
        calls: list[Call] = [(each.tolist(), seed) for each in places]
        with (
            closing(self._workers.results(calls)) as results,
            closing(copied_ahead(self._whole(results), self._device)) as batches,
        ):
            for each, pixels in zip(places, batches, strict=True):
                if not self._channels_last:
                    pixels = pixels.contiguous()
                inputs = normalised(pixels, MEAN, STD)
                if seed is not None and self._augmentation is not None:
                    inputs = self._augmentation.batch(inputs, seed, each)
                yield inputs

    def _whole(self, results: Iterator[Tensor | str]) -> Iterator[Tensor]:
        for result in results:
            if isinstance(result, str):
                raise MissingData(result)
            yield result


@dataclass(frozen=True)
class _Decode:
    """What a loader process does: places to a batch uint8 (b, 3, side, side), or a text about what is broken. The
    text is returned, because an exception from a loader process arrives as a wall of tracebacks."""

    images: Images
    rows: Tensor
    view: View
    augmentation: Augmentation | None
    order: torch.memory_format
    data_set: str

    def __call__(self, call: Call) -> Tensor | str:
        places, seed = call
        try:
            return stacked([self._one(place, seed) for place in places], self.view.side, self.order)
        except BrokenImage as error:
            return f"{error}.\n  {error.advice.replace('{}', self.data_set)}"

    def _one(self, place: int, seed: int | None) -> Tensor:
        image = self.images.image(int(self.rows[place]))
        if seed is None or self.augmentation is None:
            return self.view(image)
        return self.augmentation.pixels(image, example_random(seed, place, "pixels"))
