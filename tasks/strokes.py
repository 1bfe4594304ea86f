"""Figures of random pen strokes, made as the scans of digits were and no digits: inputs from outside of their
distribution that neither brightness nor line width gives away.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

N_FIGURES = 400
SIDE = 8
BLOCK = 4
"""A grey level counts the inked pixels of a block of 4x4: 0 to 16, as in the digits."""
BITMAP = SIDE * BLOCK
UNIT = 64
"""Steps of the integer arithmetic per pixel of the bitmap."""
SEGMENTS = 64
"""Points of a stroke, less one. At most 1.9 pixels apart in these figures: closer than the thinnest pen is wide."""
MARGIN = 3 * UNIT // 2
"""From the bitmap's upper and lower edge to the outermost points of the strokes."""
WIDTHS = (18, 26)
"""Least and largest width of a figure with its margins, in pixels of the bitmap."""
PENS = (5 * UNIT // 4, 11 * UNIT // 4)
"""Least and largest radius of the pen: 1.25 to 2.75 pixels of the bitmap."""
INK, INK_SPREAD = 320, 34
"""Inked pixels of 1024 that are asked for: the mean, and the largest of three deviations that are summed. The digits'
have mean 313 and standard deviation 34; figures that ask for much ink are more often too thick and drawn again."""

STROKES_SHA256 = "2b03c313e46991121edd67df9b6c9af855161a5b6bce2ad3efbe59794e15531a"
"""Of the 400 figures that this module stands for, their bytes in row-major order."""


def stroke_figures() -> NDArray[np.uint8]:
    """400 figures (400, 8, 8) of two or three crossing strokes, with grey levels 0..16.

    A figure is a bitmap of 32x32 pixels, counted in blocks of 4x4: so were the digits made. A stroke is a quadratic
    Bezier curve of three random points. The strokes are stretched to the bitmap's full height, as the digits are, and
    to a random width, and drawn with a round pen that is as thick as it takes to leave as much ink as a digit. Integers
    from SHAKE-256 throughout, hence equal everywhere.

    Nothing keeps a figure from looking like a digit by chance, and some do: no detector can be right about all.
    """
    import numpy as np

    return np.stack([_figure(number) for number in range(N_FIGURES)])


def _figure(number: int) -> NDArray[np.uint8]:
    """The first attempt whose ink a pen of legal width can leave."""
    import numpy as np

    for attempt in itertools.count():
        words = _random_words(f"strokes {number} {attempt}", count=23)
        ink = INK + sum(word % (2 * INK_SPREAD + 1) - INK_SPREAD for word in words[:3])
        strokes = 3 if words[3] % 3 else 2
        width = WIDTHS[0] + words[4] % (WIDTHS[1] - WIDTHS[0] + 1)
        distances = _squared_distances(_points(words[5 : 5 + 6 * strokes], width))
        pen = np.partition(distances, ink - 1, axis=None)[ink - 1]  # the squared radius that inks so many pixels
        if PENS[0] ** 2 <= pen <= PENS[1] ** 2:
            break
    blocks = (distances <= pen).reshape(SIDE, BLOCK, SIDE, BLOCK)
    figure: NDArray[np.uint8] = blocks.sum(axis=(1, 3)).astype("uint8")
    return figure


def _points(controls: list[int], width: int) -> NDArray[np.int64]:
    """Points (strokes * 65, 2) of the curves, x and y in units of the bitmap; six control numbers per stroke."""
    import numpy as np

    first, middle, last = np.asarray(controls).reshape(-1, 3, 1, 2).swapaxes(0, 1)  # (strokes, 1, 2) each
    t = np.arange(SEGMENTS + 1)[:, None]
    curves = (SEGMENTS - t) ** 2 * first + 2 * t * (SEGMENTS - t) * middle + t**2 * last  # (strokes, 65, 2)
    points = curves.reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    box = np.array([width, BITMAP]) * UNIT - 2 * MARGIN
    corner = np.array([(BITMAP - width) * UNIT // 2, 0]) + MARGIN
    placed: NDArray[np.int64] = corner + (points - low) * box // np.maximum(high - low, 1)
    return placed


def _squared_distances(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of every pixel's centre (32, 32) to the nearest of the points."""
    import numpy as np

    centres = np.arange(BITMAP) * UNIT + UNIT // 2
    across, down = ((centres[:, None] - points[:, axis]) ** 2 for axis in (0, 1))  # (32, points)
    nearest: NDArray[np.int64] = (down[:, None] + across[None]).min(axis=-1)
    return nearest


def _random_words(text: str, count: int) -> list[int]:
    """Integers 0..65535, little-endian, of a SHAKE-256 stream."""
    return list(struct.unpack(f"<{count}H", hashlib.shake_256(text.encode()).digest(2 * count)))
