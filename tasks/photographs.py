"""Small patches of photographs, which show no digit: inputs from outside of the digits' distribution.

The photographs are the two that scikit-learn ships, `china.jpg` (a temple) and `flower.jpg` (a dahlia).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from benchmark import EnvironmentProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 8
WHITE = 16
CONTRAST = 4
"""Levels between the darkest and the brightest pixel of a patch, at least."""
N_PER_PHOTOGRAPH = 200
FILES_SHA256 = {
    "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
}
"""Of the compressed files: decoders of JPEG may differ by a level of 256, which rounding to 17 levels mostly hides."""


def photograph_patches() -> NDArray[np.uint8]:
    """400 patches (400, 8, 8) with grey levels 0..16, those of digit scans; 200 of each photograph, in a fixed order.

    A photograph is cut into tiles of 8x8 pixels, side by side from the upper left corner. Most are plain sky or dark
    ground, hardly told from each other; of those that show something the 200 of lowest rank are taken. The rank of a
    tile is the SHA-256 of "photographs NAME ROW COLUMN", free of any library's generator. Grey is the luma of ITU-R
    BT.601.

    Raises:
        EnvironmentProblem: the installed scikit-learn ships other photographs.
    """
    import numpy as np

    return np.concatenate([_patches(name) for name in FILES_SHA256])


def _patches(name: str) -> NDArray[np.uint8]:
    import numpy as np

    colours = _read(name).astype("int64")  # (H, W, 3)
    luma = colours @ np.array([299, 587, 114])  # 0..255000
    grey = (luma * WHITE + 127_500) // 255_000  # rounded to the nearest of 17 levels
    rows, columns = grey.shape[0] // SIDE, grey.shape[1] // SIDE
    tiles = grey[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2)
    shows_something = np.ptp(tiles, axis=(2, 3)) >= CONTRAST

    def rank(place: tuple[int, int]) -> bytes:
        return hashlib.sha256(f"photographs {name} {place[0]} {place[1]}".encode()).digest()

    places = sorted(((int(row), int(column)) for row, column in np.argwhere(shows_something)), key=rank)
    return np.stack([tiles[place] for place in places[:N_PER_PHOTOGRAPH]]).astype("uint8")


def _read(name: str) -> NDArray[np.uint8]:
    from importlib.resources import files

    from sklearn.datasets import load_sample_image

    found = hashlib.sha256(files("sklearn.datasets.images").joinpath(name).read_bytes()).hexdigest()
    if found != FILES_SHA256[name]:
        raise EnvironmentProblem(
            f"the installed scikit-learn ships another {name}: SHA-256 {found}, expected {FILES_SHA256[name]}.\n"
            "  Install another scikit-learn release; results would not be comparable."
        )
    image: NDArray[np.uint8] = load_sample_image(name)
    return image
