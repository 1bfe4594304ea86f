"""CIFAR-10 and CIFAR-100 as published for Python: pickled batches, in the folders that torchvision uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmark import DataSet, MissingData
from tasks.files.cifar_pickle import read_batch
from tasks.files.download import fetch, untar
from tasks.files.reading import digest_of_files, md5_of, not_whole, unlike_published

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["train", "test"]


class CifarFiles(DataSet):
    """Colour images (n, 3, 32, 32) and labels, as pickles; the number of images is what the files say."""

    torchvision: ClassVar[str]
    """The class of torchvision that knows address and checksums."""
    inside: ClassVar[str]
    files: ClassVar[dict[Part, tuple[str, ...]]]
    key: ClassVar[str]
    n_classes: ClassVar[int]
    published: ClassVar[dict[str, int]]
    """Bytes of the published training files: with these, their labels are known and need not be read to plan."""

    def folder(self, root: Path) -> Path:
        return root / self.inside

    def files_of(self, root: Path, part: Part) -> list[Path]:
        """The batches, in order."""
        return [self.folder(root) / name for name in self.files[part]]

    def problems(self, root: Path) -> Sequence[str]:
        return [fault for part in self.files for path in self.files_of(root, part) if (fault := _fault(path))]

    def class_counts(self, root: Path, part: Part) -> list[int]:
        """Images per class. Reads the batches unless they have the sizes of the published ones."""
        paths = self.files_of(root, part)
        if part == "train" and [path.stat().st_size for path in paths] == list(self.published.values()):
            return [50_000 // self.n_classes] * self.n_classes
        counts = [0] * self.n_classes
        for path in paths:
            state = path.stat()
            found = _counts(self.name, path, self.key, self.n_classes, state.st_size, state.st_mtime_ns)
            counts = [one + another for one, another in zip(counts, found, strict=True)]
        return counts

    def read(self, root: Path, part: Part) -> tuple[Tensor, Tensor]:
        """Pixels uint8 (n, 3, 32, 32) and labels int64 (n,), batch after batch.

        Raises:
            MissingData: a batch is missing or not whole, or its pickle asks for what it does not need.
        """
        import numpy as np
        import torch

        faults = [fault for path in self.files_of(root, part) if (fault := _fault(path))]
        if faults:
            raise not_whole(self.name, faults)
        batches = [read_batch(self.name, path, self.key, self.n_classes) for path in self.files_of(root, part)]
        labels = [label for batch in batches for label in batch.labels]
        pixels = np.concatenate([batch.pixels() for batch in batches])
        return torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64)

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        found = list(self.problems(root))
        for path, (expected, published) in self._checksums(root).items() if not found else ():
            try:
                n = len(read_batch(self.name, path, self.key, self.n_classes).labels)
            except MissingData as error:
                found.append(str(error))
                continue
            md5 = md5_of(path)
            if md5 != expected and n == published:
                found.append(unlike_published(path, md5, expected))
            else:
                kind = "as published" if md5 == expected else f"well formed; not the published file of {published:,}"
                say(f"{path}: {n:,} images, {kind}")
        return found

    def damaged(self, root: Path) -> Sequence[Path]:
        """Also batches that cannot be read."""
        return [
            path
            for path, (expected, published) in self._checksums(root).items()
            if not _fault(path) and md5_of(path) != expected and self._n_images(path) in (None, published)
        ]

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        from torchvision import datasets

        if not self.problems(root):
            say(f"{self.folder(root)}: there already")
            return
        official = getattr(datasets, self.torchvision)
        archive = root / official.filename
        if not archive.is_file() or self._unpacked(archive, root):
            fetch([official.url], archive, official.tgz_md5, say, self.manual)
            fault = self._unpacked(archive, root)
            if fault:
                raise MissingData(f"{self.name}: {fault}\n  {self.manual}")
        say(f"{self.folder(root)}: unpacked from {archive}")

    def fingerprint(self, root: Path) -> str:
        return digest_of_files([*self.files_of(root, "train"), *self.files_of(root, "test")])

    def _checksums(self, root: Path) -> dict[Path, tuple[str, int]]:
        """Of every batch, the published MD5 and number of images."""
        from torchvision import datasets

        official = getattr(datasets, self.torchvision)
        return {
            self.folder(root) / name: (md5, total // len(checksums))
            for total, checksums in ((50_000, official.train_list), (10_000, official.test_list))
            for name, md5 in checksums
        }

    def _n_images(self, path: Path) -> int | None:
        try:
            return len(read_batch(self.name, path, self.key, self.n_classes).labels)
        except MissingData:
            return None

    def _unpacked(self, archive: Path, root: Path) -> str | None:
        fault = untar(archive, self.inside, root)
        left = [*self.problems(root), *(f"{path} is not the published file" for path in self.damaged(root))]
        return fault or (f"{archive} does not hold all files:\n  " + "\n  ".join(left) if left else None)


class Cifar10(CifarFiles):
    """Ten classes, 5,000 training and 1,000 test images of each."""

    name = "cifar10"
    title = "CIFAR-10, 60,000 colour images of 32x32 in 10 classes"
    source = "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html"
    size, download = 356_700_000, 170_498_071
    manual = "Without network: put cifar-10-python.tar.gz into the data root, and prepare again"
    torchvision, inside, key, n_classes = "CIFAR10", "cifar-10-batches-py", "labels", 10
    files: ClassVar[dict[Part, tuple[str, ...]]] = {
        "train": ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
        "test": ("test_batch",),
    }
    published: ClassVar[dict[str, int]] = {
        "data_batch_1": 31_035_704,
        "data_batch_2": 31_035_320,
        "data_batch_3": 31_035_999,
        "data_batch_4": 31_035_696,
        "data_batch_5": 31_035_623,
    }


class Cifar100(CifarFiles):
    """A hundred classes (the fine labels), 500 training and 100 test images of each."""

    name = "cifar100"
    title = "CIFAR-100, 60,000 colour images of 32x32 in 100 classes"
    source = "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html"
    size, download = 355_400_000, 169_001_437
    manual = "Without network: put cifar-100-python.tar.gz into the data root, and prepare again"
    torchvision, inside, key, n_classes = "CIFAR100", "cifar-100-python", "fine_labels", 100
    files: ClassVar[dict[Part, tuple[str, ...]]] = {"train": ("train",), "test": ("test",)}
    published: ClassVar[dict[str, int]] = {"train": 155_249_918}


def _fault(path: Path) -> str | None:
    """What is wrong with a pickle, from its first and its last byte: a truncated one lacks the full stop."""
    if not path.is_file():
        return f"{path}: missing"
    size = path.stat().st_size
    with open(path, "rb") as handle:
        first = handle.read(1)
        handle.seek(-min(size, 1), 2)
        last = handle.read(1)
    if size < 3072 or first != b"\x80":
        return f"{path}: {size:,} bytes that are not a pickled batch"
    return None if last == b"." else f"{path}: {size:,} bytes, the end is missing: its download or copy was interrupted"


@lru_cache(maxsize=32)
def _counts(data_set: str, path: Path, key: str, n_classes: int, size: int, changed: int) -> list[int]:
    """Size and time of change are arguments so that a file that was replaced is read again."""
    counts = [0] * n_classes
    for label in read_batch(data_set, path, key, n_classes).labels:
        counts[label] += 1
    return counts
