"""Fixed parts of a folder, chosen by the names of its files: the same on every machine, free of random generators."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from benchmark import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.image_folder.index import FolderIndex, Header


def lowest(index: FolderIndex, rows: Iterable[int], n: int) -> list[int]:
    """The n of `rows` whose `class/file` has the lowest SHA-256, in the order of the index."""
    return sorted(sorted(rows, key=lambda row: hashlib.sha256(index.name(row).encode()).digest())[:n])


def split_rows(index: FolderIndex, per_class: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows that train, rows that are held out: `per_class` of every class)."""
    held = np.zeros(len(index), dtype=bool)
    if per_class:
        starts = np.cumsum([0, *index.header.counts])
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            held[lowest(index, range(start, end), per_class)] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_held_out(header: Header, per_class: int) -> None:
    """Every class must keep a training image.

    Raises:
        ConfigError: a class has too few images.
    """
    for name, count in zip(header.classes, header.counts, strict=True):
        if count <= per_class:
            raise ConfigError(
                f"task 'imagenet': val_per_class {per_class} leaves class '{name}' nothing to train on: it has {count} "
                f"training images.\n  Set val_per_class below {min(header.counts)}; 0: no validation split."
            )
