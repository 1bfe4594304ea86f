"""Data sets that are folders of images with an index beside them. Planning reads indexes; it lists no folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmark import DataSet, MissingData, prepare_command
from tasks.image_folder.index import (
    BadIndex,
    FolderIndex,
    Header,
    changed_folder,
    read_header,
    read_index,
    write_index,
)
from tasks.image_folder.listing import LostFiles, scan, sub_folders

T = TypeVar("T")
NAMED = 20
"""Files that an error lists."""

INDEXES = ".bnnbench"
"""Below the data root and not in the images' folder, which is often a link to where nobody may write."""


class IndexedFolders(DataSet):
    """Folders of images that belong together.

    parts: name -> folder relative to the data root. Each has an index of its own, by its name. with_classes: whether
    the folders in a part are classes.
    """

    def __init__(self, name: str, title: str, parts: Mapping[str, str], *, with_classes: bool = True) -> None:
        self.name, self.title, self.parts, self.with_classes = name, title, dict(parts), with_classes

    def index_path(self, root: Path, part: str) -> Path:
        """Where the index of a part is."""
        return root / INDEXES / self.name / f"{part}.npz"

    def part_folder(self, root: Path, part: str) -> Path:
        """Where the images of a part are."""
        return root / self.parts[part]

    def header(self, root: Path, part: str) -> Header:
        """The header of a part's index.

        Raises:
            MissingData: it is missing or damaged.
        """
        return self._read(read_header, root, part)

    def index(self, root: Path, part: str) -> FolderIndex:
        """The index of a part.

        Raises:
            MissingData: it is missing or damaged.
        """
        return self._read(read_index, root, part)

    def _read(self, read: Callable[[Path], T], root: Path, part: str) -> T:
        try:
            return read(self.index_path(root, part))
        except (FileNotFoundError, BadIndex) as error:
            raise MissingData(f"{error}.\n  To mend it: {prepare_command(self.name)}") from error

    def problems(self, root: Path) -> Sequence[str]:
        headers: dict[str, Header] = {}
        found: list[str] = []
        for part in self.parts:
            fault = self._fault(root, part)
            if fault:
                found.append(fault)
            else:
                headers[part] = self.header(root, part)
        return (
            found
            + [line for part, header in headers.items() for line in self._empty(root, part, header)]
            + [
                *(
                    self.mismatches(root, headers)
                    if not found and all(each.classes for each in headers.values())
                    else ()
                )
            ]
        )

    def mismatches(self, root: Path, headers: Mapping[str, Header]) -> Sequence[str]:
        """What does not fit together in the parts, one line each; called when all indexes are there and name
        classes."""
        return ()

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        """Opens and decodes every image, in several processes.

        The index of a part with a fault is removed: what replaces a file has another size, and changes no folder.
        """
        from tasks.image_folder.checking import broken_files

        found = list(self.problems(root))
        for part in self.parts:
            if self._fault(root, part) is None:
                faults = broken_files(self.part_folder(root, part), self.index(root, part), say)
                found += [set_aside(self.index_path(root, part)), *faults] if faults else []
        return found

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        """Downloads nothing: lists the folders and writes their indexes. Those that are up to date are kept."""
        absent = [str(folder) for part in self.parts if not (folder := self.part_folder(root, part)).is_dir()]
        if absent:
            shown = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
            raise MissingData(f"{self.name}: there is no folder {shown}.\n  {self.manual}")
        lost: list[str] = []
        for part in self.parts:
            if self._fault(root, part) is not None:
                try:
                    write_index(self.index_path(root, part), self._scanned(self.part_folder(root, part), say))
                except LostFiles as error:
                    lost += error.lines
        if lost:
            more = [f"... and {len(lost) - NAMED} more"] if len(lost) > NAMED else []
            text = f"{self.name}: {len(lost)} files are listed and cannot be looked at (links that lead nowhere?):"
            mend = f"Mend or remove them, then: {prepare_command(self.name)}"
            raise MissingData("\n  ".join([text, *lost[:NAMED], *more, mend]))
        left = self.problems(root)
        if left:
            raise MissingData("\n  ".join([f"{self.name} is indexed, but not whole:", *left[:10], self.manual]))

    def fingerprint(self, root: Path) -> str:
        """From classes, file names and sizes."""
        lines = [f"{part} {self.header(root, part).digest}" for part in sorted(self.parts)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def watched(self, classes: Sequence[str]) -> Sequence[str]:
        """Folders of a part whose time of change is compared with the index, whenever a study is planned."""
        return ("", *classes)

    def _scanned(self, folder: Path, say: Callable[[str], None]) -> FolderIndex:
        folders = sub_folders(folder)
        return scan(folder, folders if self.with_classes else [""], self.watched(folders), say)

    def _fault(self, root: Path, part: str) -> str | None:
        """What keeps the index of a part from being used."""
        folder, path = self.part_folder(root, part), self.index_path(root, part)
        if not folder.is_dir():
            return f"there is no folder {folder}"
        try:
            header = read_header(path)
        except FileNotFoundError:
            return f"{folder} is not indexed yet: there is no {path}"
        except BadIndex as error:
            return f"the index {error}"
        changed = changed_folder(header, folder)
        return f"{changed} has changed since it was indexed in {path}" if changed else None

    def _empty(self, root: Path, part: str, header: Header) -> list[str]:
        folder = self.part_folder(root, part)
        if not header.classes:
            return [f"{folder} has no class folders: images belong into {folder}/CLASS/"]
        none = (name for name, count in zip(header.classes, header.counts, strict=True) if not count)
        return [f"{folder / name} holds no image" for name in none]


def set_aside(path: Path) -> str:
    """Remove a file that says that data are whole, so that they are prepared anew; a line about it."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return f"{path} is out of date and cannot be removed ({error.strerror}): remove it, then prepare"
    return f"{path} is removed: `prepare` makes a new one of what is there then"
