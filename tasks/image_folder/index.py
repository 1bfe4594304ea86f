"""What is in a folder of images: listed once by `bnnbench data prepare`, read from one file ever after.

A folder of 1.3 million files takes minutes to list on a network drive. The index holds names, classes and sizes in one
compressed file; its header alone, which planning reads, takes milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1


class BadIndex(ValueError):
    """The file is not an index that this version reads."""


@dataclass(frozen=True)
class Header:
    """What planning needs.

    watched: path of a folder relative to the indexed one -> its time of change in ns. names: SHA-256 of classes and
    file names. digest: of classes, file names and sizes in bytes; says what the data are, wherever they lie.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    size: int
    watched: dict[str, int | None]
    names: str
    digest: str


@dataclass(frozen=True)
class FolderIndex:
    """Files of a folder, class by class, names sorted within a class: the order of torchvision's ImageFolder.

    text: the names relative to the folder, UTF-8, one after the other: a million Python strings would be copied into
    every forked process by their reference counts. ends: int64 (n,), where each name ends. sizes: int64 (n,), bytes.
    """

    header: Header
    text: bytes
    ends: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, row: int) -> str:
        """As `class/file`, with slashes."""
        return os.fsdecode(self.text[int(self.ends[row - 1]) if row else 0 : int(self.ends[row])])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Place of each file's class among the sorted classes, int64 (n,)."""
        import numpy as np

        return np.repeat(np.arange(len(self.header.classes)), self.header.counts)


def write_index(path: Path, index: FolderIndex) -> None:
    """Atomically."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    header = json.dumps({"format": FORMAT, **asdict(index.header)}).encode()
    try:
        with open(temporary, "wb") as handle:
            said, text = np.frombuffer(header, np.uint8), np.frombuffer(index.text, np.uint8)
            np.savez_compressed(handle, header=said, text=text, ends=index.ends, sizes=index.sizes)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: Path) -> Header:
    """Raises:
    FileNotFoundError: there is no index. BadIndex: it cannot be read.
    """
    return _header(_arrays(path, "header")["header"], path)


def read_index(path: Path) -> FolderIndex:
    """Raises:
    FileNotFoundError: there is no index. BadIndex: it cannot be read, or its content is not what its header says.
    """
    found = _arrays(path, "header", "text", "ends", "sizes")
    header, text = _header(found["header"], path), found["text"].tobytes()
    if digests_of(header.classes, text, found["ends"], found["sizes"]) != (header.names, header.digest):
        raise BadIndex(f"{path} is damaged")
    return FolderIndex(header, text, found["ends"], found["sizes"])


def changed_folder(header: Header, folder: Path) -> Path | None:
    """The first watched folder that has changed since it was indexed, or is gone."""
    changed = (folder / each for each, time in header.watched.items() if changed_at(folder / each) != time)
    return next(changed, None)


def changed_at(folder: Path) -> int | None:
    """A folder's time of change in ns; None: there is none."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None


def digests_of(
    classes: Sequence[str], text: bytes, ends: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[str, str]:
    """(`Header.names`, `Header.digest`) of a list of files."""
    names = hashlib.sha256(json.dumps(list(classes)).encode())
    names.update(ends.astype("<i8").tobytes())
    names.update(text)
    whole = names.copy()
    whole.update(sizes.astype("<i8").tobytes())
    return names.hexdigest(), whole.hexdigest()


def _arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in names}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadIndex(f"{path} cannot be read ({error})") from error


def _header(raw: NDArray[np.uint8], path: Path) -> Header:
    try:
        found = json.loads(raw.tobytes())
        if found.pop("format") != FORMAT:
            raise BadIndex(f"{path} was written by another version")
        return Header(**{**found, "classes": tuple(found["classes"]), "counts": tuple(found["counts"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadIndex(f"{path} cannot be read ({error})") from error
