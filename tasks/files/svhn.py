"""The test part of SVHN, house numbers photographed in the street: what is out of distribution for CIFAR."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import DataSet, MissingData
from tasks.files.download import fetch
from tasks.files.reading import damaged, digest_of_files, md5_of, not_whole, unlike_published, wrong_size

if TYPE_CHECKING:
    from torch import Tensor

N_PUBLISHED = 26_032
MATRIX, COMPRESSED = 14, 15
"""Types of the elements that a MAT-file of version 5 consists of."""


class Svhn(DataSet):
    """Colour images (n, 3, 32, 32) of digits, in one MAT-file of version 5."""

    name = "svhn"
    title = "SVHN, the test part (cropped digits), 26,032 colour images of 32x32"
    source = "Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers"
    size, download = 64_275_384, 64_275_384
    manual = "Without network: put test_32x32.mat of that page into the folder svhn of the data root"

    def folder(self, root: Path) -> Path:
        return root / "svhn"

    def path(self, root: Path) -> Path:
        """The file."""
        return self.folder(root) / "test_32x32.mat"

    def problems(self, root: Path) -> Sequence[str]:
        fault = _fault(self.path(root))
        return [fault] if fault else []

    def read(self, root: Path) -> tuple[Tensor, Tensor]:
        """Pixels uint8 (n, 3, 32, 32) and labels int64 (n,): the digit, which the file calls 10 when it is 0.

        Raises:
            MissingData: the file is missing, not whole, or holds something else.
        """
        import numpy as np
        import torch
        from scipy.io import loadmat

        path = self.path(root)
        for fault in self.problems(root):
            raise not_whole(self.name, [fault])
        try:
            found = loadmat(path, variable_names=("X", "y"))
        except Exception as error:  # scipy's reader raises whatever the bytes lead it to
            raise damaged(self.name, path, f"cannot be read ({type(error).__name__}: {error})") from error
        images, labels = found.get("X"), found.get("y")
        if images is None or labels is None or images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3):
            raise damaged(self.name, path, "lacks X, uint8 (32, 32, 3, n), or y")
        labels = labels.reshape(-1).astype("int64")
        if images.ndim != 4 or images.shape[3] != len(labels) or labels.min() < 1 or labels.max() > 10:
            raise damaged(self.name, path, f"X is {images.shape}, with {len(labels)} labels; expected labels 1 to 10")
        pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
        return torch.from_numpy(pixels), torch.from_numpy(labels % 10)

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        from torchvision.datasets import SVHN

        path, expected = self.path(root), SVHN.split_list["test"][2]
        found = list(self.problems(root))
        if found:
            return found
        md5 = md5_of(path)
        try:
            n = len(self.read(root)[1])
        except MissingData as error:
            return [str(error)]
        if md5 != expected and n == N_PUBLISHED:
            return [unlike_published(path, md5, expected)]
        kind = "as published" if md5 == expected else f"well formed; not the published file of {N_PUBLISHED:,}"
        say(f"{path}: {n:,} images, {kind}")
        return []

    def damaged(self, root: Path) -> Sequence[Path]:
        """Also a file that cannot be read."""
        from torchvision.datasets import SVHN

        path = self.path(root)
        if self.problems(root) or md5_of(path) == SVHN.split_list["test"][2]:
            return []
        try:
            n = len(self.read(root)[1])
        except MissingData:
            return [path]
        return [path] if n == N_PUBLISHED else []

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        from torchvision.datasets import SVHN

        if not self.problems(root):
            say(f"{self.path(root)}: there already")
            return
        url, _, md5 = SVHN.split_list["test"]
        fetch([url], self.path(root), md5, say, self.manual)

    def fingerprint(self, root: Path) -> str:
        return digest_of_files([self.path(root)])


def _fault(path: Path) -> str | None:
    """What is wrong with a MAT-file, from its header and the sizes that its elements announce."""
    if not path.is_file():
        return f"{path}: missing"
    size = path.stat().st_size
    with open(path, "rb") as handle:
        header = handle.read(128)
        if not header.startswith(b"MATLAB 5.0 MAT-file") or len(header) < 128:
            return f"{path}: {size:,} bytes that are not a MAT-file of version 5"
        order = "<" if header[126:128] == b"IM" else ">"
        end = 128
        while end < size:
            handle.seek(end)
            tag = handle.read(8)
            if len(tag) < 8:
                return wrong_size(path, size, end + 8)
            kind, length = struct.unpack(f"{order}II", tag)
            if kind not in (MATRIX, COMPRESSED):
                return f"{path}: an element of type {kind} at byte {end:,}, which no MAT-file has there"
            end += 8 + length
    return None if end == size > 128 else wrong_size(path, size, max(end, 136))
