"""A task over two files whose published content is known, one that only its owner can bring, and its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark import DataSet, Task, TaskInfo
from benchmark.files import write_bytes

CONTENT = b"published" * 100


class Checked(DataSet):
    """One file; fetched when it is missing, whatever is wrong with a file that is there."""

    title = "a checked file"
    source = "made by this file"
    size = download = len(CONTENT)

    def __init__(self, name: str, *, checksum: bool) -> None:
        self.name, self.checksum = name, checksum

    def folder(self, root: Path) -> Path:
        return root / self.name

    def file(self, root: Path) -> Path:
        return self.folder(root) / "content.bin"

    def problems(self, root: Path) -> Sequence[str]:
        return [] if self.file(root).is_file() else [f"{self.file(root)} is missing"]

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        return [] if self.file(root).read_bytes() == CONTENT else [f"{self.file(root)} has another content"]

    def damaged(self, root: Path) -> Sequence[Path]:
        changed = not self.problems(root) and self.verify(root, print)
        return [self.file(root)] if self.checksum and changed else []

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        self.folder(root).mkdir(parents=True, exist_ok=True)
        if self.problems(root):
            write_bytes(self.file(root), CONTENT)

    def fingerprint(self, root: Path) -> str:
        return "0" * 64


class Own(Checked):
    """Nothing can prepare it."""

    size = download = 0
    by_hand = True
    manual = "It is a file of yours: put it there."


class CheckedTask(Task):
    """Only its data are of interest."""

    name = "checked"

    def data(self, config: Any) -> Sequence[DataSet]:
        return (Checked("checked-sum", checksum=True), Checked("unchecked", checksum=False))

    def corruption_data(self, config: Any) -> Sequence[DataSet]:
        return (Own("own-file", checksum=False),)

    def info(self, config: Any) -> TaskInfo:
        raise NotImplementedError

    def fingerprint(self, config: Any) -> str:
        raise NotImplementedError

    def load(self, config: Any, split: Any) -> None:
        raise NotImplementedError
