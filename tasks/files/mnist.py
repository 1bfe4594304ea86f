"""MNIST and Fashion-MNIST: idx files in the folders that torchvision uses.

An idx file is a header of big-endian 32-bit numbers (a magic number that tells type and dimensions, then the sizes)
and the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmark import DataSet, MissingData, prepare_command
from tasks.files.download import fetch, gunzip
from tasks.files.reading import damaged, digest_of_files, md5_of, not_whole, unlike_published, wrong_size

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["train", "test"]
SIDE, N_CLASSES = 28, 10
MAGIC = {"images": 0x803, "labels": 0x801}
"""Unsigned bytes in three dimensions, and in one."""


class IdxFiles(DataSet):
    """Images (n, 28, 28) and labels of ten classes, as four idx files; the number of images is what the files say."""

    size, download = 54_950_048, 0
    torchvision: ClassVar[str]
    """The class of torchvision that names files and addresses, and the folder's name."""
    md5: ClassVar[Mapping[str, str]]
    """Of the unpacked files (torchvision knows those of the packed ones), by `NAMES`."""

    NAMES: ClassVar[dict[Part, tuple[str, str]]] = {
        "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    }
    PUBLISHED: ClassVar[dict[Part, int]] = {"train": 60_000, "test": 10_000}

    def folder(self, root: Path) -> Path:
        return root / self.torchvision / "raw"

    def files_of(self, root: Path, part: Part) -> tuple[Path, Path]:
        """The files of images and of labels."""
        images, labels = self.NAMES[part]
        return self.folder(root) / images, self.folder(root) / labels

    def problems(self, root: Path) -> Sequence[str]:
        return [*self._faults(root, "train"), *self._faults(root, "test")]

    def count(self, root: Path, part: Part) -> int:
        """How many images a part has, from the header of its labels."""
        _, labels = self.files_of(root, part)
        return _header(labels)[1]

    def class_counts(self, root: Path, part: Part) -> list[int]:
        """Images per class, from the bytes of the labels."""
        _, path = self.files_of(root, part)
        labels = path.read_bytes()[8:]
        counts = [labels.count(label) for label in range(N_CLASSES)]
        if sum(counts) != len(labels):
            raise damaged(self.name, path, f"holds the label {max(labels)}; legal are 0 to {N_CLASSES - 1}")
        return counts

    def read(self, root: Path, part: Part) -> tuple[Tensor, Tensor]:
        """Pixels uint8 (n, 1, 28, 28) and labels int64 (n,).

        Raises:
            MissingData: the files are missing or not whole.
        """
        from torchvision.datasets.mnist import read_image_file, read_label_file

        faults = self._faults(root, part)
        if faults:
            raise not_whole(self.name, faults)
        self.class_counts(root, part)
        images, labels = self.files_of(root, part)
        return read_image_file(str(images)).unsqueeze(1), read_label_file(str(labels))

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        found = list(self.problems(root))
        if found:
            return found
        for part, published in self.PUBLISHED.items():
            for path in self.files_of(root, part):
                fault = self._unlike_published(path)
                if fault:
                    found.append(fault)
                else:
                    n = _header(path)[1]
                    kind = "as published" if n == published else f"well formed; not the published file of {published:,}"
                    say(f"{path}: {n:,} examples, {kind}")
            try:
                self.read(root, part)
            except MissingData as error:
                found.append(str(error))
        return found

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        from torchvision import datasets

        official = getattr(datasets, self.torchvision)
        for packed_name, md5 in official.resources:
            path = self.folder(root) / packed_name.removesuffix(".gz")
            packed = self.folder(root) / packed_name
            if path.is_file() and not _fault(path):
                say(f"{path}: there already")
                continue
            if not packed.is_file() or self._unpacked(packed, path):
                urls = [mirror + packed_name for mirror in official.mirrors]
                fetch(urls, packed, md5, say, self.manual)
                fault = self._unpacked(packed, path)
                if fault:
                    raise MissingData(f"{self.name}: {fault}")
            say(f"{path}: unpacked")
        left = self.problems(root)
        if left:
            again = f"To mend it: remove those that are not the published ones, then: {prepare_command(self.name)}"
            raise MissingData(f"{self.name}: the files do not belong together:\n  " + "\n  ".join([*left, again]))

    def fingerprint(self, root: Path) -> str:
        return digest_of_files([*self.files_of(root, "train"), *self.files_of(root, "test")])

    def damaged(self, root: Path) -> Sequence[Path]:
        paths = [path for part in self.NAMES for path in self.files_of(root, part)]
        return [path for path in paths if not _fault(path) and self._unlike_published(path)]

    def _unlike_published(self, path: Path) -> str | None:
        """What is wrong with a whole file that announces the published number of examples; nothing with others, which
        somebody has made."""
        part: Part = "train" if path.name in self.NAMES["train"] else "test"
        if _header(path)[1] != self.PUBLISHED[part]:
            return None
        found, expected = md5_of(path), self.md5[path.name]
        return None if found == expected else unlike_published(path, found, expected)

    def _unpacked(self, packed: Path, path: Path) -> str | None:
        """Unpack one file, unless it holds something else than `path` should; what is wrong with it."""

        def fault(temporary: Path) -> str | None:
            what = _fault(temporary)
            if what or _header(temporary)[1] not in self.PUBLISHED.values():
                return what
            found, expected = md5_of(temporary), self.md5[path.name]
            return None if found == expected else f"holds another file than the published one (MD5 {found})"

        return gunzip(packed, path, fault)

    def _faults(self, root: Path, part: Part) -> list[str]:
        paths = self.files_of(root, part)
        faults = [fault for path in paths if (fault := _fault(path))]
        if not faults:
            images, labels = (_header(path)[1] for path in paths)
            if images != labels:
                faults.append(f"{paths[0]}: {images:,} images, but {labels:,} labels in {paths[1].name}")
        return faults


class Mnist(IdxFiles):
    """Handwritten digits: 60,000 and 10,000 images."""

    name = "mnist"
    title = "MNIST, handwritten digits, 70,000 grey images of 28x28 in 10 classes"
    source = "LeCun, Cortes and Burges 1998; files and checksums as torchvision has them"
    torchvision = "MNIST"
    download = 11_594_722
    manual = (
        "Without network: put the four files of MNIST/raw (train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
        "t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz, or unpacked) there, and prepare again"
    )
    md5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }


class FashionMnist(IdxFiles):
    """Articles of clothing in MNIST's format and sizes."""

    name = "fashion_mnist"
    title = "Fashion-MNIST, articles of clothing, 70,000 grey images of 28x28 in 10 classes"
    source = "Xiao, Rasul and Vollgraf 2017 (Zalando); files and checksums as torchvision has them"
    torchvision = "FashionMNIST"
    download = 30_878_645
    manual = Mnist.manual.replace("MNIST/raw", "FashionMNIST/raw")
    md5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


def _header(path: Path) -> tuple[int, ...]:
    """Magic number and sizes."""
    n = 4 if "images" in path.name else 2
    with open(path, "rb") as handle:
        start = handle.read(4 * n)
    return struct.unpack(f">{n}I", start) if len(start) == 4 * n else ()


def _fault(path: Path) -> str | None:
    """What is wrong with one file, from its header and its size."""
    if not path.is_file():
        packed = path.with_name(path.name + ".gz")
        return f"{path}: missing" + (f" ({packed.name} is there and not unpacked)" if packed.is_file() else "")
    kind = "images" if "images" in path.name else "labels"
    header = _header(path)
    if not header or header[0] != MAGIC[kind]:
        return f"{path}: not an idx file of {kind} (it starts with {header[0] if header else 'less than a header'})"
    if kind == "images" and header[2:] != (SIDE, SIDE):
        return f"{path}: images of {header[2]}x{header[3]}, expected {SIDE}x{SIDE}"
    found, expected = path.stat().st_size, 4 * len(header) + prod(header[1:])
    return None if found == expected else wrong_size(path, found, expected)
