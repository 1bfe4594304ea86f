"""Decoded images in one file: raw bytes one after the other."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from tasks.image_folder.decode import BrokenImage, Images
from tasks.image_folder.workers import Workers

CHUNK = 64
CHUNKS_PER_SYNC = 16
SAMPLED = 256
"""Images whose size is looked at to tell how much room is needed."""

RECORD = np.dtype([("height", "<i4"), ("width", "<i4"), ("crc", "<u4")])
"""Of one image; its bytes are row by row, RGB."""


class CutPack(BrokenImage):
    """The file of pixels ends too early."""

    advice = "To make it again: bnnbench data prepare {}"


class PackedImages:
    """Images of a pack (`pixels`: the bytes, `shapes`: the records).

    Read by system calls: a memory map of 300 GB is refused where the memory it might need is counted, and on a network
    drive it fetches page after page.
    """

    def __init__(self, pixels: Path, shapes: Path) -> None:
        self._path = pixels
        self.records = np.fromfile(shapes, dtype=RECORD)
        self.ends = ends_of(self.records)
        self._file: FileIO | None = None

    def __len__(self) -> int:
        return len(self.records)

    def image(self, row: int) -> Tensor:
        """uint8 (3, H, W).

        Raises:
            CutPack: the file does not hold it.
        """
        height, width = int(self.records["height"][row]), int(self.records["width"][row])
        return torch.from_numpy(self._bytes(row).reshape(height, width, 3)).permute(2, 0, 1)

    def whole(self, row: int) -> bool:
        """Whether an image's bytes have the checksum with which they were written."""
        return zlib.crc32(self._bytes(row).data) == int(self.records["crc"][row])

    def _bytes(self, row: int) -> NDArray[np.uint8]:
        if self._file is None:
            self._file = FileIO(self._path)
        end = int(self.ends[row])
        start = end - int(area_of(self.records[row : row + 1])[0])
        raw = np.empty(end - start, dtype=np.uint8)
        rest = raw.data
        while rest:  # by place: forked processes share the open file
            got = os.preadv(self._file.fileno(), [rest], end - len(rest))
            if not got:
                raise CutPack(f"{self._path} is cut: it does not hold all bytes of image {row}")
            rest = rest[got:]
        return raw

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}


def ends_of(records: NDArray[np.void]) -> NDArray[np.int64]:
    """Where each image ends in the file of pixels."""
    return np.cumsum(area_of(records))


def area_of(records: NDArray[np.void]) -> NDArray[np.int64]:
    """Bytes of each image, int64."""
    areas: NDArray[np.int64] = 3 * records["height"].astype(np.int64) * records["width"]
    return areas


def expected_bytes(paths: list[str], side: int) -> int:
    """Room that the images need when their shorter side is `side`, from the headers of some of them."""
    step = max(1, len(paths) // SAMPLED)
    areas = []
    for path in paths[::step]:
        try:
            with Image.open(path) as image:
                areas.append(side * side * max(image.size) / min(image.size))
        except Exception:  # decoding will name the file
            continue
    return int(3 * len(paths) * (sum(areas) / len(areas) if areas else side * side * 4 / 3))


@dataclass(frozen=True)
class _Shrink:
    """What a process does: rows to (bytes of their images, records), or a text about a broken one."""

    images: Images
    side: int

    def __call__(self, rows: range) -> tuple[Tensor, Tensor] | str:
        pixels, records = [], np.zeros(len(rows), dtype=RECORD)
        try:
            for place, row in enumerate(rows):
                image = functional.resize(
                    self.images.image(row), [self.side], InterpolationMode.BILINEAR, antialias=True
                )
                flat = image.permute(1, 2, 0).contiguous().view(-1)
                records[place] = (*image.shape[-2:], zlib.crc32(flat.numpy()))
                pixels.append(flat)
        except BrokenImage as error:
            return str(error)
        return torch.cat(pixels), torch.from_numpy(records.view(np.uint8))


class _Growing:
    """Two files that grow together: records are written after the pixels that they promise are on the disk."""

    def __init__(self, pixels: BinaryIO, shapes: BinaryIO) -> None:
        self._pixels, self._shapes = pixels, shapes
        self._waiting: list[bytes] = []

    def add(self, pixels: Tensor, records: Tensor) -> None:
        self._pixels.write(pixels.numpy().data)
        self._waiting.append(records.numpy().tobytes())

    def save(self) -> None:
        self._pixels.flush()
        os.fsync(self._pixels.fileno())
        self._shapes.write(b"".join(self._waiting))
        self._waiting.clear()
        self._shapes.flush()
        os.fsync(self._shapes.fileno())


def pack(images: Images, side: int, pixels: Path, shapes: Path, say: Callable[[str], None]) -> int:
    """Append images to `pixels` and their records to `shapes` until all are there; goes on where it was killed. One
    process at a time.

    Returns: the bytes that all images have together.

    Raises:
        BrokenImage: an image cannot be read; what is written stays.
    """
    done, size = _resume(pixels, shapes)
    chunks = [range(start, min(start + CHUNK, len(images))) for start in range(done, len(images), CHUNK)]
    if done:
        say(f"{pixels}: goes on after {done:,} images")
    work = Workers(_Shrink(images, side))
    with open(pixels, "ab") as bytes_of, open(shapes, "ab") as records_of, closing(work.results(chunks)) as results:
        growing = _Growing(bytes_of, records_of)
        try:
            for number, (rows, result) in enumerate(zip(chunks, results, strict=True), start=1):
                if isinstance(result, str):
                    raise BrokenImage(result)
                growing.add(*result)
                size += len(result[0])
                if number % CHUNKS_PER_SYNC == 0 or number == len(chunks):
                    growing.save()
                    say(f"{pixels}: {rows.stop:,} of {len(images):,} images, {size / 2**30:.2f} GiB")
        finally:
            growing.save()
    return size


def _resume(pixels: Path, shapes: Path) -> tuple[int, int]:
    """Cut both files after the last image that is whole in both; how many are, and their bytes.

    After a power cut, a file may be as long as it was and hold zeros: what may not have been saved is read.
    """
    for path in (pixels, shapes):
        path.touch()
    packed = PackedImages(pixels, shapes)
    legal = (packed.records["height"] > 0) & (packed.records["width"] > 0) & (packed.ends <= pixels.stat().st_size)
    done = len(legal) if legal.all() else int(np.argmin(legal))
    unsure = range(max(0, done - CHUNK * CHUNKS_PER_SYNC), done)
    done = next((row for row in unsure if not packed.whole(row)), done)
    size = int(packed.ends[done - 1]) if done else 0
    os.truncate(shapes, done * RECORD.itemsize)
    os.truncate(pixels, size)
    return done, size
