"""Who keeps a Gaussian of its own: the weights that sharing would cost most, or those of large gradient or size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from benchmark import ConfigError
from methods.stochastic_weight_sharing.sharing.largest import Largest
from methods.stochastic_weight_sharing.sharing.moments import Moments
from methods.stochastic_weight_sharing.sharing.plane import CHUNK, Plane


def costliest(plane: Plane, labels: Tensor, clusters: Moments, count: int, but: Tensor | None = None) -> Tensor:
    """Flat indices, int64 (min(count, N),), rising, of the weights of largest KL(N(x, s^2) || N(a_c, b_c^2)).

    labels: (N,) of any integer type. but: flat indices of weights that are not asked for. Of equal costs, the weights
    that come first.
    """
    a, variance = clusters.codewords()
    precision, log_variance = 1 / variance, variance.log()
    found = Largest(count, plane.device)
    asked = torch.ones(len(plane), dtype=torch.bool, device=plane.device)
    if but is not None:
        asked[but] = False
    for start, x, s in plane.pieces():
        own = labels[start : start + len(x)].int()
        x, s = x.double(), s.double()
        cost = (x - a.index_select(0, own)).square_().addcmul_(s, s).mul_(precision.index_select(0, own))
        cost += log_variance.index_select(0, own)
        cost.sub_(s.log(), alpha=2).sub_(1).div_(2)
        found.see(cost.masked_fill_(~asked[start : start + len(x)], -torch.inf), start)
    return found.index()


def by_gradient(plane: Plane, magnitudes: Mapping[str, Tensor] | None, fraction: float, size: float | None) -> Tensor:
    """Flat indices, int64, rising, of the weights with |mu| > size or among the `fraction` of largest magnitude.

    magnitudes: mean |gradient| of each weight, by name, shaped as the weights. size: None, no weight is too large.

    Raises:
        ConfigError: a fraction without magnitudes.
    """
    found = [torch.zeros(0, dtype=torch.int64, device=plane.device)]
    if fraction > 0:
        if magnitudes is None:
            raise ConfigError(
                f"outliers 'gradient' with outlier_fraction {fraction} needs the weights' mean |gradient|, and there "
                "is none: set outlier_fraction: 0, or outliers: kl"
            )
        found.append(_steepest(plane, magnitudes, round(fraction * len(plane))))
    if size is not None:
        found += _larger(plane, size)
    return torch.as_tensor(torch.cat(found).unique())


def _steepest(plane: Plane, magnitudes: Mapping[str, Tensor], count: int) -> Tensor:
    found, start = Largest(count, plane.device), 0
    for name in plane.shapes:
        for part in magnitudes[name].reshape(-1).split(CHUNK):
            found.see(part, start)
            start += len(part)
    return found.index()


def _larger(plane: Plane, size: float) -> Iterator[Tensor]:
    start = 0
    for name, shape in plane.shapes.items():
        limit = size / plane.scale[name]
        for piece in plane.subset([name]).pieces():
            yield start + piece.start + (piece.x.abs() > limit).nonzero()[:, 0]
        start += shape.numel()
