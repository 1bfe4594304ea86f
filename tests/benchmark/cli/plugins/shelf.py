"""A task that reads a file below the data root, and data sets that are prepared well, badly, or very slowly."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import Config, DataSet, MissingData, NetworkFamily, Task, TaskInfo, data_root
from benchmark.files import write_bytes, write_via

if TYPE_CHECKING:
    from benchmark import Split

BOOKS = bytes(range(256)) * 15


class Book(DataSet):
    """One file of 3840 bytes."""

    title = "a shelf of books"
    source = "made by this file"
    size = len(BOOKS)
    download = len(BOOKS)

    def __init__(self, name: str) -> None:
        self.name = name

    def folder(self, root: Path) -> Path:
        return root / self.name

    def file(self, root: Path) -> Path:
        return self.folder(root) / "books.bin"

    def problems(self, root: Path) -> Sequence[str]:
        file = self.file(root)
        if not file.is_file():
            return [f"{file} is missing"]
        found = file.stat().st_size
        return [] if found == self.size else [f"{file} has {found} bytes, expected {self.size}"]

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        say("reading")
        return [] if self.file(root).read_bytes() == BOOKS else [f"{self.file(root)} has another checksum"]

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        self.folder(root).mkdir(parents=True, exist_ok=True)
        say("fetching")
        write_bytes(self.file(root), BOOKS)

    def fingerprint(self, root: Path) -> str:
        return hashlib.sha256(self.file(root).read_bytes()).hexdigest()


class Lost(Book):
    """Nobody has it; nor a way to describe it without an error, when SHELF_UNREADABLE is set."""

    download = 0
    manual = "Ask the librarian, and put books.bin there."

    def problems(self, root: Path) -> Sequence[str]:
        if os.environ.get("SHELF_UNREADABLE"):
            raise PermissionError(13, "Permission denied", str(self.file(root)))
        return super().problems(root)

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        raise MissingData(f"{self.file(root)} cannot be fetched. {self.manual}")


class Slow(Book):
    """Written byte by byte: time enough to be interrupted."""

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        self.folder(root).mkdir(parents=True, exist_ok=True)
        write_via(self.file(root), self.trickle)

    def trickle(self, path: Path) -> None:
        with open(path, "wb", buffering=0) as handle:
            for byte in BOOKS:
                handle.write(bytes([byte]))
                time.sleep(0.02)


class Huge(Book):
    """More than any disk holds."""

    size = 10**18


class ShelfConfig(Config):
    extra: bool = False


class Shelf(Task):
    """The images of `tiny`, for as long as the books are there."""

    name = "shelf"
    Config = ShelfConfig

    def info(self, config: Any) -> TaskInfo:
        books(config)
        return TaskInfo((1, 2, 2), 3, 60, 20, 40)

    def fingerprint(self, config: Any) -> str:
        return hashlib.sha256(books(config)).hexdigest()

    def load(self, config: Any, split: Any) -> Split | None:
        import torch

        from benchmark import Split

        if os.environ.get("SHELF_FAILS"):
            raise RuntimeError("the shelf falls over")
        n = {"train": 60, "val": 20, "test": 40}[split]
        pixels = torch.frombuffer(bytearray(books(config)[: n * 4]), dtype=torch.uint8)
        return Split(pixels.view(n, 1, 2, 2).float() / 255, torch.arange(n) % 3)

    def data(self, config: Any) -> Sequence[DataSet]:
        return (Book("shelf-books"), *((Lost("shelf-extra"),) if config.extra else ()))

    def corruptions(self, config: Any) -> Sequence[str]:
        return ("dust",)

    def corruption_data(self, config: Any) -> Sequence[DataSet]:
        return (Book("shelf-dusty"),)

    def data_set(self, name: str) -> DataSet | None:
        kinds = {"shelf-lost": Lost, "shelf-slow": Slow, "shelf-huge": Huge}
        return kinds[name](name) if name in kinds else None


def books(config: Any) -> bytes:
    return Book("shelf-books").file(data_root()).read_bytes()


class ShelfNet(NetworkFamily):
    """A network that starts from weights on disk, for images of this size."""

    name = "shelfnet"
    forms = "shelfnet"

    def check(self, network: str) -> None:
        pass

    def build(self, network: str, input_shape: tuple[int, int, int], n_classes: int) -> Any:
        raise NotImplementedError

    def data(self, network: str, config: Any, input_shape: tuple[int, int, int]) -> Sequence[DataSet]:
        return (Book(f"weights-shelfnet-{input_shape[1]}"),)

    def data_set(self, name: str) -> DataSet | None:
        return Book(name) if name.startswith("weights-shelfnet-") else None
