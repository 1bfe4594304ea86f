"""Is every image whole?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tasks.image_folder.decode import BrokenImage, FileImages, decoded
from tasks.image_folder.endings import lacks_end
from tasks.image_folder.index import FolderIndex
from tasks.image_folder.workers import Workers

CHUNK = 64
CHUNKS_PER_LINE = 100
"""Of progress."""


class _Check:
    """Lines about the broken ones among some rows."""

    def __init__(self, folder: Path, index: FolderIndex) -> None:
        self._images = FileImages(folder, index)

    def __call__(self, rows: range) -> list[str]:
        return [line for row in rows if (line := self._fault(row))]

    def _fault(self, row: int) -> str | None:
        try:
            data, path = self._images.content(row)
            decoded(data, path)
        except BrokenImage as error:
            return str(error)
        if lacks_end(data):
            return f"{path} ({len(data):,} bytes) has no end marker: its end was cut off or overwritten"
        return None


def broken_files(folder: Path, index: FolderIndex, say: Callable[[str], None]) -> list[str]:
    """One line for each file that cannot be decoded, has another size than in the index or lacks its end; reads all of
    them."""
    chunks = [range(start, min(start + CHUNK, len(index))) for start in range(0, len(index), CHUNK)]
    found: list[str] = []
    with closing(Workers(_Check(folder, index)).results(chunks)) as results:
        for number, lines in enumerate(results, start=1):
            found += lines
            if number % CHUNKS_PER_LINE == 0 or number == len(chunks):
                say(f"{folder}: {min(number * CHUNK, len(index)):,} of {len(index):,} images, {len(found)} broken")
    return found
