"""The result of sharing: who belongs to which shared Gaussian, and who keeps one of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmark import Fact
from methods.stochastic_weight_sharing.sharing.moments import Moments

ALPHA_LEVELS = 255


@dataclass(frozen=True)
class Ellipses:
    """Ellipse points that are blended: x_i ~ the moment-matched mixture of two clusters.

    index: flat indices, int64 (|E|,), rising. second: the second cluster, int64 (|E|,); the first is the weight's
    label. level: uint8 (|E|,), the first cluster's share alpha = 1/2 + level/510, which is never below the second's.
    """

    index: Tensor
    second: Tensor
    level: Tensor

    @property
    def alpha(self) -> Tensor:
        """Share of the first cluster, float64 (|E|,), in [1/2, 1]."""
        return 0.5 + self.level.double() / (2 * ALPHA_LEVELS)

    @classmethod
    def none(cls, device: torch.device | str = "cpu") -> Ellipses:
        """No point is blended."""
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return cls(empty, empty, empty.to(torch.uint8))


@dataclass(frozen=True)
class Outliers:
    """Weights with a Gaussian of their own. index: flat, int64 (|O|,), rising. x, s: (|O|,) in units of the tensor's
    scale."""

    index: Tensor
    x: Tensor
    s: Tensor


@dataclass(frozen=True)
class Shared:
    """N weights in K shared Gaussians and |O| of their own. The flat index runs over `shapes` in order, row-major.

    shapes: the tensors. scale: r by name. labels: (N,) uint8 if K <= 256, else int32; 0 for outliers, which are not
    members of anything. clusters: moments of the members (K clusters, none empty), float64. ellipses: those blended.
    beyond: flat indices, int64, rising, of the inliers outside of their cluster's ellipse, blended or not. facts: what
    the row tells about the sharing.
    """

    shapes: dict[str, torch.Size]
    scale: dict[str, float]
    labels: Tensor
    clusters: Moments
    outliers: Outliers
    ellipses: Ellipses
    beyond: Tensor
    facts: dict[str, Fact] = field(default_factory=dict)

    @property
    def components(self) -> int:
        """K."""
        return len(self.clusters)


def label_dtype(components: int) -> torch.dtype:
    """The narrowest type that holds the labels and that gathers and counts well."""
    return torch.uint8 if components <= 256 else torch.int32
