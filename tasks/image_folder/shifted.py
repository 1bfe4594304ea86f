"""ImageNet-C: ImageNet's validation images under 15 corruptions at 5 severities (Hendrycks and Dietterich 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import MissingData
from tasks.image_folder.folders import IndexedFolders
from tasks.image_folder.index import Header
from tasks.image_folder.listing import EXTENSIONS
from tasks.image_folder.originals import ImageNet
from tasks.published_corruptions import CORRUPTIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEVERITIES = (1, 2, 3, 4, 5)
FOLDER = "ImageNet-C"


class ImageNetC(IndexedFolders):
    """ROOT/ImageNet-C/CORRUPTION/SEVERITY/CLASS/*.JPEG, the same files under every corruption.

    side: what the images must measure; they are cropped already and read as they are.
    """

    source = "ImageNet-C (Hendrycks and Dietterich 2019), zenodo.org/records/2235448, CC BY 4.0"
    size = 75_000_000_000
    manual = (
        "ImageNet-C is not downloaded by this program. Get blur.tar, digital.tar, noise.tar and weather.tar from "
        "zenodo.org/records/2235448 and unpack them as ImageNet-C/CORRUPTION/SEVERITY/CLASS/*.JPEG below the data root."
    )

    def __init__(self, side: int = 224) -> None:
        self.side = side
        parts = {
            part_name(corruption, severity): f"{FOLDER}/{corruption}/{severity}"
            for corruption in CORRUPTIONS
            for severity in SEVERITIES
        }
        super().__init__("imagenetc", "ImageNet-C: corrupted validation images of ImageNet", parts)

    def folder(self, root: Path) -> Path:
        return root / FOLDER

    def watched(self, classes: Sequence[str]) -> Sequence[str]:
        return ("",)  # 75,000 class folders are too many to ask for whenever a study is planned

    def mismatches(self, root: Path, headers: Mapping[str, Header]) -> Sequence[str]:
        (first, reference), *others = headers.items()
        lines = [
            f"{self.part_folder(root, part)} holds other files than {self.part_folder(root, first)}"
            for part, header in others
            if header.names != reference.names
        ]
        lacking = sorted(set(task_classes(root)) - set(reference.classes))
        if lacking:
            lines.append(f"{self.folder(root)} lacks classes of imagenet/val: {', '.join(lacking[:5])}")
        return lines + self._wrong_size(root, first, reference)

    def _wrong_size(self, root: Path, part: str, header: Header) -> list[str]:
        """Looks at one image, so that a wrong setting is found before anything is trained."""
        from PIL import Image

        name = next((name for name, count in zip(header.classes, header.counts, strict=True) if count), None)
        if name is None:
            return []
        folder = self.part_folder(root, part) / name
        try:
            files = (path for path in folder.iterdir() if path.name.lower().endswith(EXTENSIONS))
            with Image.open(path := next(files)) as image:
                width, height = image.size
        except (OSError, StopIteration):
            return []
        if (width, height) == (self.side, self.side):
            return []
        return [
            f"{path} has {width}x{height} pixels and is read as it is, but image_size is {self.side}: set image_size: "
            f"{width} in the task, or leave out shift"
        ]


def part_name(corruption: str, severity: int) -> str:
    """Of a part of `ImageNetC`."""
    return f"{corruption}-{severity}"


def task_classes(root: Path) -> tuple[str, ...]:
    """Classes of imagenet/val; none as long as it is not indexed."""
    try:
        return ImageNet().header(root, "val").classes
    except MissingData:
        return ()


def shifted_rows(
    data: ImageNetC, root: Path, corruption: str, severity: int, classes: Sequence[str], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, labels) of the examples that stand for the test set: of the files in `classes` the n whose `class/file`
    has the lowest SHA-256, all for n = 0. Names are equal under every corruption, hence the examples are."""
    import numpy as np

    from tasks.image_folder.held_out import lowest

    index = data.index(root, part_name(corruption, severity))
    place = {name: label for label, name in enumerate(classes)}
    labels = np.asarray([place.get(name, -1) for name in index.header.classes])[index.labels]
    rows = np.flatnonzero(labels >= 0)
    if 0 < n < len(rows):
        rows = np.asarray(lowest(index, rows.tolist(), n), dtype=np.int64)
    return rows, labels[rows]
