"""Corrupted images: five ways in which a camera or a hand may differ, each at five severities.

After Hendrycks and Dietterich 2019 (Benchmarking Neural Network Robustness to Common Corruptions and Perturbations);
kinds and parameters are ours. Lengths are shares of the side, so that a digit of 8x8 pixels and one of 28x28 are moved
and blurred alike; noise is per pixel, and weighs less the more pixels there are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmark import unknown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

VERSION = 1
"""Raised when an image would be corrupted to other numbers."""

STRENGTHS: dict[str, tuple[float, float, float, float, float]] = {
    "shift": (0.03, 0.05, 0.075, 0.10, 0.13),  # distance moved, in sides
    "rotation": (8.0, 13.0, 19.0, 26.0, 34.0),  # degrees; far below 90, so that a 6 does not become a 9
    "blur": (0.06, 0.08, 0.095, 0.115, 0.14),  # standard deviation of the Gaussian, in sides
    "noise": (0.12, 0.22, 0.30, 0.40, 0.55),  # standard deviation per pixel, as a share of white - black
    "contrast": (0.70, 0.60, 0.50, 0.40, 0.30),  # share that is kept of the distance from the image's mean
}
"""Per kind the strengths of the severities 1 to 5. A side is the square root of height times width.

Chosen on digits: of the accuracy of a trained `resnet20`, 98 %, severity 1 costs 1 to 3 points and severity 5 of every
kind 50 to 60, the mean of two seeds.
"""

CORRUPTIONS = tuple(STRENGTHS)
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Tensor, corruption: str, severity: int, places: Sequence[int] | None = None) -> Tensor:
    """The images, corrupted: float32 (n, C, H, W) in [0, 1], 0 is black; the result has shape, range and device of it.

    Deterministic: direction, sign and noise of an image are hashed from the corruption and the image's place in its
    set. They are the same at every severity, so that a severer image has gone further the same way, and on every
    machine. What enters from outside the image is black.

    places: of the images in their set, where they are only some of it; 0..n-1 by default.

    Raises:
        ValueError: another corruption, severity, shape, dtype or range, or not one place per image.
    """
    _check(images, corruption, severity)
    places = range(len(images)) if places is None else places
    if len(places) != len(images):
        raise ValueError(f"{len(images)} images need as many places; got {len(places)}")
    if len(images) == 0:
        return images.clone()
    return _KINDS[corruption](images, STRENGTHS[corruption][severity - 1], places).clamp_(0, 1)


def corruptions_digest() -> str:
    """SHA-256, hex, of all that decides the numbers beside the images: kinds, strengths and version."""
    return hashlib.sha256(f"corruptions {VERSION} {sorted(STRENGTHS.items())}".encode()).hexdigest()


def _check(images: Tensor, corruption: str, severity: int) -> None:
    import torch

    if corruption not in STRENGTHS:
        raise ValueError(unknown("corruption", corruption, CORRUPTIONS))
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity} is none of 1 (mild) to 5 (severe)")
    if images.dim() != 4 or images.dtype != torch.float32:
        raise ValueError(f"images must be float32 (n, C, H, W); got {images.dtype} {tuple(images.shape)}")
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = float(images.min()), float(images.max())
        raise ValueError(f"images must lie in [0, 1], black to white; got {low:.4g} to {high:.4g}")


# -- the five kinds: (images, strength, places) -> images -----------------------------------------------------------


def _shift(images: Tensor, sides: float, places: Sequence[int]) -> Tensor:
    """Moved in a direction of each image's own, with bilinear interpolation between pixels."""
    import numpy as np

    distance = sides * math.sqrt(images.shape[2] * images.shape[3])
    angles = 2 * np.pi * _uniforms("shift", places, 1)[:, 0]
    unturned = np.zeros(len(places))
    return _moved(images, unturned, distance * np.cos(angles), distance * np.sin(angles))


def _rotation(images: Tensor, degrees: float, places: Sequence[int]) -> Tensor:
    """Turned about the centre, each image to a side of its own, with bilinear interpolation."""
    import numpy as np

    signs = np.where(_uniforms("rotation", places, 1)[:, 0] < 0.5, -1.0, 1.0)
    unmoved = np.zeros(len(places))
    return _moved(images, signs * math.radians(degrees), unmoved, unmoved)


def _blur(images: Tensor, sides: float, places: Sequence[int]) -> Tensor:
    """Convolved with a Gaussian, along rows and then along columns."""
    height, width = images.shape[2:]
    sigma = sides * math.sqrt(height * width)
    # As products with matrices: convolutions on GPUs round to fewer digits unless told otherwise.
    return _gaussian(height, sigma).to(images.device) @ images @ _gaussian(width, sigma).to(images.device)


def _gaussian(side: int, sigma: float) -> Tensor:
    """Symmetric (side, side): the weight of each pixel of a line in each other's blur; what leaves the line is lost."""
    import torch

    places = torch.arange(-2 * side, 2 * side + 1, dtype=torch.float64)
    mass = (-0.5 * (places / sigma) ** 2).exp().sum()
    line = torch.arange(side, dtype=torch.float64)
    return ((-0.5 * ((line - line[:, None]) / sigma) ** 2).exp() / mass).float()


def _noise(images: Tensor, sigma: float, places: Sequence[int]) -> Tensor:
    """With Gaussian noise of its own on every pixel and channel; `corrupt` clips."""
    import torch
    from scipy.special import ndtri

    uniforms = _uniforms("noise", places, images[0].numel())
    noise = torch.from_numpy(ndtri(uniforms)).float().view(images.shape)
    return images + sigma * noise.to(images.device)


def _contrast(images: Tensor, kept: float, places: Sequence[int]) -> Tensor:
    """Drawn towards the mean over the image's pixels and channels."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + kept * (images - mean)


_KINDS: dict[str, Callable[[Tensor, float, Sequence[int]], Tensor]] = {
    "shift": _shift,
    "rotation": _rotation,
    "blur": _blur,
    "noise": _noise,
    "contrast": _contrast,
}


def _moved(
    images: Tensor, angles: NDArray[np.float64], right: NDArray[np.float64], down: NDArray[np.float64]
) -> Tensor:
    """Turned by `angles` (n,) radians about the centre, then moved by (n,) pixels to the right and downwards."""
    import numpy as np
    import torch
    from torch.nn.functional import grid_sample

    height, width = images.shape[2:]
    rows = torch.arange(height, dtype=torch.float64).view(1, -1, 1) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64).view(1, 1, -1) - (width - 1) / 2
    cos, sin, along, below = (
        torch.from_numpy(each).view(-1, 1, 1) for each in (np.cos(angles), np.sin(angles), right, down)
    )
    x, y = columns - along, rows - below  # where an output pixel was before the move, from the centre
    sources = (2 / width * (cos * x + sin * y), 2 / height * (cos * y - sin * x))  # in half sides, for grid_sample
    grid = torch.stack(sources, dim=-1).float().to(images.device)  # (n, H, W, 2)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _uniforms(corruption: str, places: Sequence[int], count: int) -> NDArray[np.float64]:
    """(n, count) numbers inside (0, 1), of each place its own: 32-bit words of a SHAKE-256 stream.

    Free of any library's generator, and a longer stream begins with the shorter one.
    """
    import numpy as np

    streams = (hashlib.shake_256(f"corruption {corruption} {place}".encode()) for place in places)
    words = np.frombuffer(b"".join(stream.digest(4 * count) for stream in streams), dtype="<u4")
    return (words.reshape(len(places), count).astype("float64") + 0.5) / 2**32
