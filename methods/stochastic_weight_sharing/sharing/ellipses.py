"""Ellipse points and alpha-blending (Lin et al., AISTATS 2025, arXiv 2505.17856).

A weight outside its cluster's probability ellipse in the plane (x, l) belongs to its two most probable clusters, in
shares alpha and 1 - alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.axes import Axes, rows_at_a_time
from methods.stochastic_weight_sharing.sharing.em import log_joint
from methods.stochastic_weight_sharing.sharing.moments import Moments
from methods.stochastic_weight_sharing.sharing.plane import Plane
from methods.stochastic_weight_sharing.sharing.shared import ALPHA_LEVELS, Ellipses

RIDGE = 1e-12
"""Added to the variances, in units of the feature's variance over all inliers."""
PART = 1 << 16
"""Points at a time whose float64 temporaries stay in the processor's cache."""


def beyond_ellipse(plane: Plane, labels: Tensor, outliers: Tensor, clusters: Moments, quantile: float) -> Tensor:
    """Flat indices, int64, rising, of the inliers whose Mahalanobis distance^2 from their cluster exceeds
    -2 ln(1 - quantile), the radius^2 that holds that share of a Gaussian in the plane.

    labels: (N,) of any integer type; those of `outliers` (flat indices, int64, rising) do not matter.
    """
    table, bound = _whitening(clusters), -2 * math.log1p(-quantile)
    found = []
    for start, x, s in plane.pieces():
        parts = zip(labels[start : start + x.numel()].split(PART), x.split(PART), s.split(PART), strict=True)
        beyond = torch.cat([_squared_mahalanobis(table.index_select(0, k.int()), *part) > bound for k, *part in parts])
        first, last = torch.searchsorted(outliers, outliers.new_tensor([start, start + x.numel()])).tolist()
        beyond[outliers[first:last] - start] = False
        found.append(beyond.nonzero()[:, 0] + start)
    return torch.cat(found)


def _whitening(clusters: Moments) -> Tensor:
    """(K, 5) float64: m_x, m_l, f, c, g, for `_squared_mahalanobis`."""
    S = clusters.covariance("x", "l")
    floor_x, floor_l = RIDGE * Axes.of(clusters).scale.square()
    variance = S[:, 0, 0].clamp(min=0) + floor_x
    slope = S[:, 0, 1] / variance
    rest = (S[:, 1, 1] - slope * S[:, 0, 1]).clamp(min=0) + floor_l
    return torch.stack([clusters.mean_of("x"), clusters.mean_of("l"), variance.rsqrt(), slope, rest.rsqrt()], dim=1)


def _squared_mahalanobis(rows: Tensor, x: Tensor, s: Tensor) -> Tensor:
    """(f dx)^2 + (g (dl - c dx))^2 (m,) of points x, s (m,); rows: (m, 5), the `_whitening` of their clusters."""
    m_x, m_l, f, c, g = rows.unbind(1)
    right = x.double().sub_(m_x)
    up = s.double().log_().sub_(m_l).addcmul_(c, right, value=-1).mul_(g)
    return right.mul_(f).square_().addcmul_(up, up)


def blend(plane: Plane, index: Tensor, labels: Tensor, clusters: Moments) -> tuple[Ellipses, Tensor]:
    """The two clusters j of largest ln pi_j + ln N((x, l) | m_j, S_j) for each of these weights, with alpha their
    soft-max: (ellipse points, their new labels (|E|,) int64). One cluster: nothing can be blended.

    index: flat indices, int64, rising.
    """
    if len(clusters) == 1 or not index.numel():
        none = Ellipses.none(index.device)
        return none, none.second
    axes = Axes.of(clusters)
    features, coefficients = axes.quadratic(*plane.at(index)), log_joint(axes.sums(clusters), RIDGE)
    values, which = zip(*_two_best(features, coefficients), strict=True)
    (first, second), (best, next_best) = torch.cat(which).unbind(1), torch.cat(values).unbind(1)
    level = ((best - next_best).sigmoid() - 0.5).mul_(2 * ALPHA_LEVELS).round_()
    return Ellipses(index, second.contiguous(), level.to(torch.uint8)), first.contiguous()


def _two_best(features: Tensor, coefficients: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Two largest `log_joint` and their clusters, each (rows, 2), some points at a time: never (m, K) at once."""
    for part in features.split(rows_at_a_time(len(coefficients), features.device), dim=1):
        yield (part.T @ coefficients.T).topk(2, dim=1)


def mixture_moments(alpha: Tensor, a1: Tensor, b1_sq: Tensor, a2: Tensor, b2_sq: Tensor) -> tuple[Tensor, Tensor]:
    """Mean A and variance V of the mixture alpha N(a1, b1^2) + (1 - alpha) N(a2, b2^2); broadcast, differentiable.

    V = alpha b1^2 + (1 - alpha) b2^2 + alpha (1 - alpha) (a1 - a2)^2: sum alpha_j (b_j^2 + a_j^2) - A^2 without its
    cancellation.
    """
    return torch.lerp(a2, a1, alpha), torch.lerp(b2_sq, b1_sq, alpha) + alpha * (1 - alpha) * (a1 - a2).square()
