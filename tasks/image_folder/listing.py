"""Listing a folder of images for its index, by many threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.image_folder.index import FolderIndex, Header, changed_at, digests_of

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of images, lower or upper case, as torchvision.datasets.ImageFolder takes them."""

LISTERS = 16
"""Threads that list folders: they wait for the file system."""

CLASSES_PER_LINE = 50
"""Of progress."""


class LostFiles(Exception):
    """Files that are listed and cannot be asked for their size, folders that cannot be listed. lines: one for each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__(", ".join(lines))
        self.lines = tuple(lines)


def scan(folder: Path, classes: Sequence[str], watched: Sequence[str], say: Callable[[str], None]) -> FolderIndex:
    """List a folder and its sub-folders `classes`; ("",) for images that have no classes.

    watched: sub-folders whose time of change tells that the index is old.

    Raises:
        LostFiles: links lead nowhere, or files vanished meanwhile.
    """
    import numpy as np

    before = {each: changed_at(folder / each) for each in watched}  # first: what changes meanwhile counts as new
    found: list[list[tuple[bytes, int]]] = []
    lost: list[str] = []
    with ThreadPoolExecutor(LISTERS) as threads:
        for files, errors in threads.map(lambda name: _files(folder, name), classes):
            found.append(files)
            lost += [f"{error.filename}: {error.strerror}" for error in errors]
            if len(found) % CLASSES_PER_LINE == 0 or len(found) == len(classes):
                say(f"{folder}: {len(found)} of {len(classes)} folders, {sum(map(len, found)):,} images")
    if lost:
        raise LostFiles(lost)
    entries = [entry for files in found for entry in files]
    text = b"".join(name for name, _ in entries)
    ends = np.cumsum([len(name) for name, _ in entries], dtype=np.int64)
    sizes = np.asarray([size for _, size in entries], dtype=np.int64)
    names, digest = digests_of(classes, text, ends, sizes)
    counts = tuple(len(files) for files in found)
    return FolderIndex(Header(tuple(classes), counts, int(sizes.sum()), before, names, digest), text, ends, sizes)


def sub_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted: the classes."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _files(folder: Path, name: str) -> tuple[list[tuple[bytes, int]], list[OSError]]:
    """(path relative to `folder`, bytes) of the images below `folder`/`name`, sorted as torchvision does; and what
    could not be looked at."""
    found: list[tuple[bytes, int]] = []
    errors: list[OSError] = []
    for place, _, files in sorted(os.walk(os.path.join(folder, name), onerror=errors.append, followlinks=True)):
        for file in sorted(files):
            if file.lower().endswith(EXTENSIONS):
                path = os.path.join(place, file)
                try:
                    found.append((os.fsencode(os.path.relpath(path, folder)), os.stat(path).st_size))
                except OSError as error:
                    errors.append(error)
    return found, errors
