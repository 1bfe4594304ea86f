"""ImageNet decoded once: training reads bytes where it would decode JPEG."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import DataSet, EnvironmentProblem, MissingData, prepare_command
from tasks.image_folder.folders import INDEXES, IndexedFolders, set_aside
from tasks.image_folder.lock import alone

if TYPE_CHECKING:
    from tasks.image_folder.index import Header
    from tasks.image_folder.packed import PackedImages

FORMAT = 2
RECORD_BYTES = 12
"""Of one image in PART.shapes."""

ROWS_PER_LINE = 20_000
ILSVRC_IMAGES = 1_331_167
SPARE = 1.02
"""More room is asked for than a sample of the images says."""


class ImageCache(DataSet):
    """ROOT/NAME-cache-SIDE/: every image of `original`, its shorter side resized to `side`, as raw bytes.

    PART.pixels: the images one after the other. PART.shapes: height, width and checksum of each. PART.json, written
    last: what it was made from, and the bytes of all images. An unfinished part is `PART-DIGEST.*.partial`, and goes on
    when prepared again.
    """

    def __init__(self, original: IndexedFolders, side: int) -> None:
        self.original, self.side = original, side
        self.name = f"{original.name}-cache-{side}"
        self.title = f"{original.name}, decoded, shorter side {side} pixels"
        self.source = f"made from the data set {original.name} on this machine"
        self.size = 4 * side * side * ILSVRC_IMAGES
        self.manual = f"It is made from {original.name}, which must be prepared before."

    def folder(self, root: Path) -> Path:
        return root / self.name

    def images(self, root: Path, part: str) -> PackedImages:
        """The decoded images of a part, in the order of the original's index."""
        from tasks.image_folder.packed import PackedImages

        return PackedImages(self._path(root, part, "pixels"), self._path(root, part, "shapes"))

    def problems(self, root: Path) -> Sequence[str]:
        return [line for part in self.original.parts if (line := self._fault(root, part))]

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        """Compares the checksum of every image. A part that differs is no longer taken for whole."""
        found = list(self.problems(root))
        for part in self.original.parts if not found else ():
            images = self.images(root, part)
            path = self._path(root, part, "pixels")
            for row in range(len(images)):
                if not images.whole(row):
                    found.append(f"{path}: image {row} differs from what was written")
                    set_aside(self._path(root, part, "json"))
                if row % ROWS_PER_LINE == 0:
                    say(f"{path}: {row:,} of {len(images):,} images")
        return found

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        """Decodes what is not decoded yet, in several processes. Waits for another `prepare` of the same.

        Raises:
            MissingData: the original is not whole, or has a broken image.
            EnvironmentProblem: there is not enough room; says how much is needed. Or something else wrote to the files.
        """
        faults = self.original.problems(root)
        if faults:
            raise MissingData(
                "\n  ".join([f"{self.name} is made from {self.original.name}:", *faults[:5], self.manual])
            )
        with alone(root / INDEXES / f"{self.name}.lock", self.name, say):
            wanted = [part for part in self.original.parts if self._fault(root, part)]
            self.folder(root).mkdir(parents=True, exist_ok=True)
            self._remove_leftovers(root, wanted)
            self._require_room(root, wanted)
            for part in wanted:
                self._pack(root, part, say)

    def fingerprint(self, root: Path) -> str:
        """Follows from the original and the side."""
        return hashlib.sha256(f"{self.original.fingerprint(root)} side {self.side} v{FORMAT}".encode()).hexdigest()

    def _path(self, root: Path, part: str, kind: str) -> Path:
        return self.folder(root) / f"{part}.{kind}"

    def _partial(self, root: Path, part: str, kind: str, header: Header) -> Path:
        return self.folder(root) / f"{part}-{header.digest[:16]}.{kind}.partial"

    def _record(self, header: Header, size: int) -> dict[str, Any]:
        """What PART.json says of a whole part. size: bytes of the pixels."""
        return {
            "format": FORMAT,
            "side": self.side,
            "made from": header.digest,
            "bytes": size,
        }

    def _fault(self, root: Path, part: str) -> str | None:
        path, shapes, record = (self._path(root, part, kind) for kind in ("pixels", "shapes", "json"))
        try:
            size, records, said = path.stat().st_size, shapes.stat().st_size, json.loads(record.read_bytes())
        except OSError as error:
            return f"there is no {error.filename}"
        except ValueError:
            return f"{record} is not valid JSON"
        try:
            header = self.original.header(root, part)
        except MissingData:
            return None  # the original is to be mended first, and says so itself
        wanted = self._record(header, size)
        other = [key for key in wanted if not isinstance(said, dict) or said.get(key) != wanted[key]]
        if records != RECORD_BYTES * sum(header.counts):
            other.append("shapes")
        if other:
            return (
                f"{path} does not belong to the {self.original.name} that is there now, or is cut ({', '.join(other)})"
            )
        return None

    def _remove_leftovers(self, root: Path, parts: Sequence[str]) -> None:
        """Of other originals; and what is finished but does not fit."""
        for part in parts:
            header = self.original.header(root, part)
            kept = {self._partial(root, part, kind, header) for kind in ("pixels", "shapes")}
            own = {self._path(root, part, kind) for kind in ("json", "pixels", "shapes")}
            for path in {*self.folder(root).glob(f"{part}-*.partial"), *own} - kept:
                path.unlink(missing_ok=True)

    def _require_room(self, root: Path, parts: Sequence[str]) -> None:
        from tasks.image_folder.packed import expected_bytes

        needed = 0
        for part in parts:
            index, folder = self.original.index(root, part), self.original.part_folder(root, part)
            needed += int(
                SPARE * expected_bytes([str(folder / index.name(row)) for row in range(len(index))], self.side)
            )
            partial = self._partial(root, part, "pixels", index.header)
            needed -= partial.stat().st_size if partial.exists() else 0
        free = shutil.disk_usage(self.folder(root)).free
        if needed > free:
            raise EnvironmentProblem(
                f"{self.name} needs about {needed / 2**30:,.1f} GiB in {self.folder(root)}; {free / 2**30:,.1f} GiB "
                f"are free.\n  Free some space, choose a smaller cache_side than {self.side}, or use source: files."
            )

    def _pack(self, root: Path, part: str, say: Callable[[str], None]) -> None:
        from tasks.image_folder.decode import BrokenImage, FileImages
        from tasks.image_folder.packed import pack

        index = self.original.index(root, part)
        images = FileImages(self.original.part_folder(root, part), index)
        partial = {kind: self._partial(root, part, kind, index.header) for kind in ("pixels", "shapes")}
        try:
            size = pack(images, self.side, partial["pixels"], partial["shapes"], say)
        except BrokenImage as error:
            raise MissingData(
                f"{error}.\n  Find all files that are broken or have changed: bnnbench data verify "
                f"{self.original.name}. Replace those that are broken, then: "
                f"{prepare_command(self.original.name, self.name)}"
            ) from error
        record = self._record(index.header, size)
        self._require_sizes(partial, size, RECORD_BYTES * len(index))
        for kind, path in partial.items():
            os.replace(path, self._path(root, part, kind))
        temporary = self._path(root, part, "json.tmp")
        temporary.write_text(json.dumps(record))
        os.replace(temporary, self._path(root, part, "json"))

    def _require_sizes(self, partial: Mapping[str, Path], *sizes: int) -> None:
        for path, size in zip((partial["pixels"], partial["shapes"]), sizes, strict=True):
            if (found := path.stat().st_size) != size:
                raise EnvironmentProblem(
                    f"{path} has {found:,} bytes where {size:,} were written: something else wrote to it.\n  Make sure "
                    f"that nothing else prepares {self.name}, remove {path.parent}, then: "
                    f"{prepare_command(self.name)}"
                )
