"""CIFAR-10-C and CIFAR-100-C: the test images under 15 corruptions at five severities, as .npy files."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmark import DataSet, MissingData
from tasks.files.download import untar
from tasks.files.reading import damaged, digest_of_files, md5_of, not_whole, wrong_size
from tasks.published_corruptions import CORRUPTIONS

if TYPE_CHECKING:
    from torch import Tensor

SEVERITIES = 5
PUBLISHED_BYTES = 2_918_400_000
"""What the 19 arrays and the labels of a published archive come to, rounded down."""
ITEM = {"|u1": 1, "|i1": 1, "<i4": 4, "<u4": 4, "<i8": 8, "<u8": 8, "<f4": 4, "<f8": 8}


class CorruptedCifar(DataSet):
    """Per corruption uint8 (5n, 32, 32, 3), severity after severity, and one file of labels (5n,)."""

    inside: ClassVar[str]
    n_classes: ClassVar[int]
    archive_md5: ClassVar[str]
    size, download = 2_918_000_000, 0

    def folder(self, root: Path) -> Path:
        return root / self.inside

    def path(self, root: Path, name: str) -> Path:
        """Of a corruption, or of `labels`."""
        return self.folder(root) / f"{name}.npy"

    def problems(self, root: Path) -> Sequence[str]:
        labels, found = self.path(root, "labels"), []
        fault, shape = _shape(labels)
        if fault or len(shape) != 1 or shape[0] % SEVERITIES or not shape[0]:
            found.append(fault or f"{labels}: labels of shape {shape}, expected one for each of 5n images")
        rows = shape[0] if len(shape) == 1 else None
        for path in (self.path(root, corruption) for corruption in CORRUPTIONS):
            fault, images = _shape(path)
            if fault:
                found.append(fault)
            elif images[1:] != (32, 32, 3) or (rows is not None and images[0] != rows):
                found.append(
                    f"{path}: images of shape {images}, expected ({'5n' if rows is None else rows}, 32, 32, 3)"
                )
        return found

    def read(self, root: Path, corruption: str, severity: int) -> tuple[Tensor, Tensor]:
        """Pixels uint8 (n, 3, 32, 32) and labels int64 (n,) of one corruption. Reads that severity's rows alone.

        Raises:
            ValueError: there is no such corruption or severity.
            MissingData: files are missing, not whole, or hold something else.
        """
        import numpy as np
        import torch

        if corruption not in CORRUPTIONS or not 1 <= severity <= SEVERITIES:
            raise ValueError(f"corruption {corruption!r} at {severity}; legal: {', '.join(CORRUPTIONS)}, at 1 to 5")
        paths = [self.path(root, corruption), self.path(root, "labels")]
        for fault, _ in map(_shape, paths):
            if fault:
                raise not_whole(self.name, [fault, self.manual])
        images, labels = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
        if images.dtype != np.uint8 or images.shape != (len(labels), 32, 32, 3):
            raise damaged(self.name, paths[0], f"holds {images.dtype} {images.shape}, expected uint8 of {len(labels)}")
        n = len(labels) // SEVERITIES
        rows = slice(n * (severity - 1), n * severity)
        chosen = labels[rows].astype("int64")
        if n == 0 or chosen.min() < 0 or chosen.max() >= self.n_classes:
            raise damaged(self.name, paths[1], f"labels outside of 0 to {self.n_classes - 1}")
        return torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))), torch.from_numpy(chosen)

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        """Shapes, types, labels that are equal for all severities, and that no image is blank. The authors publish a
        checksum of the archive and none of its files, so that a changed pixel cannot be told."""
        import torch

        found = list(self.problems(root))
        if found:
            return found
        for corruption in CORRUPTIONS:
            try:
                parts = [self.read(root, corruption, severity) for severity in range(1, SEVERITIES + 1)]
            except MissingData as error:
                return [str(error)]
            if not all(torch.equal(parts[0][1], labels) for _, labels in parts):
                return [f"{self.path(root, 'labels')}: the five severities have different labels"]
            # A copy that was interrupted can have its full size, and zeros where nothing was written.
            dark = sum(int((pixels.flatten(1).amax(1) == 0).sum()) for pixels, _ in parts)
            if dark > len(parts[0][1]) // 10:
                found.append(f"{self.path(root, corruption)}: {dark:,} images are black altogether")
            say(f"{self.path(root, corruption)}: 5 x {len(parts[0][1]):,} images, well formed (no checksum published)")
        return found

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        archive = root / f"{self.inside}.tar"
        if self.problems(root) and archive.is_file():
            say(f"unpacking {archive}")
            fault = self._unlike_published(archive) or untar(archive, self.inside, root)
            if fault:
                raise MissingData(f"{self.name}: {fault}\n  {self.manual}")
        left = self.problems(root)
        if left:
            raise MissingData(f"{self.name}: " + "\n  ".join([*left, self.manual]))
        say(f"{self.folder(root)}: complete")

    def fingerprint(self, root: Path) -> str:
        return digest_of_files([self.path(root, name) for name in ("labels", *CORRUPTIONS)])

    def _unlike_published(self, archive: Path) -> str | None:
        """What is wrong with an archive that can hold all that is published; a smaller one is somebody's own, or cut
        off, which shows when it is unpacked."""
        if archive.stat().st_size < PUBLISHED_BYTES or (found := md5_of(archive)) == self.archive_md5:
            return None
        return f"{archive} is damaged: its MD5 is {found}, and that of the published archive {self.archive_md5}"


class Cifar10C(CorruptedCifar):
    """The corrupted test images of CIFAR-10."""

    name = "cifar10c"
    title = "CIFAR-10-C, the test images of CIFAR-10 under 15 corruptions at 5 severities"
    source = "Hendrycks and Dietterich 2019, https://zenodo.org/records/2535967"
    manual = (
        "Get CIFAR-10-C.tar (2.9 GB, MD5 56bf5dcef84df0e2308c6dcbcbbd8499) from https://zenodo.org/records/2535967, "
        "put it into the data root, and prepare again"
    )
    inside, n_classes, archive_md5 = "CIFAR-10-C", 10, "56bf5dcef84df0e2308c6dcbcbbd8499"


class Cifar100C(CorruptedCifar):
    """The corrupted test images of CIFAR-100."""

    name = "cifar100c"
    title = "CIFAR-100-C, the test images of CIFAR-100 under 15 corruptions at 5 severities"
    source = "Hendrycks and Dietterich 2019, https://zenodo.org/records/3555552"
    manual = (
        "Get CIFAR-100-C.tar (2.9 GB, MD5 11f0ed0f1191edbf9fa23466ae6021d3) from https://zenodo.org/records/3555552, "
        "put it into the data root, and prepare again"
    )
    inside, n_classes, archive_md5 = "CIFAR-100-C", 100, "11f0ed0f1191edbf9fa23466ae6021d3"


def _shape(path: Path) -> tuple[str | None, tuple[int, ...]]:
    """What is wrong with a .npy file by its header and size, and the shape that it announces."""
    if not path.is_file():
        return f"{path}: missing", ()
    state = path.stat()
    return _announced(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=128)
def _announced(path: Path, size: int, changed: int) -> tuple[str | None, tuple[int, ...]]:
    with open(path, "rb") as handle:
        start = handle.read(10)
        version_2 = start[6:7] > b"\x01"
        more = handle.read(2) if version_2 else b""
        length = int.from_bytes(start[8:10] + more, "little")
        text = handle.read(min(length, 10_000))
    try:
        header = ast.literal_eval(text.decode("latin-1").strip())
        shape, item = tuple(map(int, header["shape"])), ITEM[header["descr"]]
        if not start.startswith(b"\x93NUMPY") or header["fortran_order"]:
            raise ValueError
    except (ValueError, SyntaxError, LookupError, TypeError, AttributeError):
        return f"{path}: {size:,} bytes that are not a .npy file of numbers in C order", ()
    expected = len(start) + len(more) + length + item * prod(shape)
    return (None if size == expected else wrong_size(path, size, expected)), shape
