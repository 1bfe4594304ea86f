"""From a file to pixels."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from tasks.image_folder.index import FolderIndex


class BrokenImage(Exception):
    """An image cannot be read. The text names the file and says why.

    advice: what mends it; {} stands for the name of the data set.
    """

    advice = "Find all that are broken: bnnbench data verify {}. Replace them, then: bnnbench data prepare {}"


class ChangedImage(BrokenImage):
    """A file is not the one that was indexed."""

    advice = (
        "bnnbench data verify {} finds all that have changed; bnnbench data prepare {} then takes the files as they are"
    )


class Images(Protocol):
    """Decoded images by row. Implementations are cheap to pickle or to fork, and open files where they are used."""

    def __len__(self) -> int: ...

    def image(self, row: int) -> Tensor:
        """uint8 (3, H, W), any size; raises BrokenImage."""


class FileImages:
    """Images of an indexed folder, decoded from their files."""

    def __init__(self, folder: Path, index: FolderIndex) -> None:
        self._folder, self._index = os.fspath(folder), index

    def __len__(self) -> int:
        return len(self._index)

    def content(self, row: int) -> tuple[bytes, str]:
        """A file's bytes, and its path.

        Raises:
            ChangedImage: it has another size than in the index, so that the index says nothing about it.
        """
        path = os.path.join(self._folder, self._index.name(row))
        data, size = content_of(path), int(self._index.sizes[row])
        if len(data) != size:
            raise ChangedImage(f"{path} has {len(data):,} bytes; when it was indexed, it had {size:,}")
        return data, path

    def image(self, row: int) -> Tensor:
        return decoded(*self.content(row))


def content_of(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        BrokenImage: it is missing, empty or cannot be read.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read()
    except OSError as error:
        raise BrokenImage(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise BrokenImage(f"{path} is empty")
    return data


def decoded(data: bytes, path: str) -> Tensor:
    """The content of `path` as uint8 RGB (3, H, W), rows as stored (no rotation by Exif, as torchvision reads). The
    format is told by the content, not by the name.

    By torchvision, and by Pillow what torchvision refuses: other formats, 16 bits per channel, odd headers.

    Raises:
        BrokenImage: neither can decode it.
    """
    try:
        image: Tensor = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        if image.dtype == torch.uint8 and image.dim() == 3:
            return image
    except RuntimeError:
        pass
    try:
        with Image.open(io.BytesIO(data)) as opened:
            pixels = np.array(_eight_bits(opened).convert("RGB"))
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, its own kinds
        raise BrokenImage(f"{path} ({len(data):,} bytes) cannot be decoded: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grey values off at 255 where the upper byte is meant."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
