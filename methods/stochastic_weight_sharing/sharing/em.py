"""Full-covariance Gaussian mixture by EM over cells: engine `gmm`, the clustering of the published method (Lin et al.,
AISTATS 2025, arXiv 2505.17856).

All members of a cell share their responsibilities, which follow from their mean log-density. The bound on the
log-likelihood that EM then maximises is exact for cells of one weight, and iterations increase it for cells of any
size (Verbeek, Nunnink, Vlassis, "Accelerated EM-based clustering of large data sets", 2006).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.axes import Axes, rows_at_a_time
from methods.stochastic_weight_sharing.sharing.moments import Moments

RIDGE = 1e-6
"""Added to the variances, in standard units, as in sklearn."""
FEWEST = 3
"""Members below which a component is dissolved: its covariance is not determined."""
ENOUGH = 1e-6
"""Relative gain of the log-likelihood below which EM stops."""
LEAST = -100.0
"""Log-responsibilities relative to a cell's largest stop here: exp is ten times slower where it underflows."""


def cluster_gmm(moments: Moments, labels: Tensor, groups: int, iterations: int) -> tuple[Tensor, int]:
    """EM from initial labels (M,) int64 in [0, groups): labels (M,) int64 of the most probable component,
    argmax_k ln pi_k + ln N(z | m_k, S_k), numbered without gaps, and their number.

    With at least as many groups as cells nothing is left to fit, and the labels stay.
    """
    if groups >= len(moments):
        return labels, groups
    sums = Axes.of(moments).sums(moments)
    components, _ = fit_mixture(sums, labels, groups, iterations)
    best = most_probable(sums / sums[0], log_joint(components, RIDGE))
    kept, renumbered = best.unique(return_inverse=True)
    return renumbered, len(kept)


def fit_mixture(sums: Tensor, labels: Tensor, groups: int, iterations: int) -> tuple[Tensor, list[float]]:
    """Components (6, K), as sums over their members, and the log-likelihood (nats) before every iteration.

    sums: (6, M) of the cells, as `Axes.sums`. Stops early at a relative gain below 1e-6. Components of fewer than 3
    members are dissolved: the next E step gives their cells to others.
    """
    components = _without_small(sums.new_zeros(6, groups).index_add_(1, labels, sums))
    history: list[float] = []
    settled = False
    for _ in range(iterations):
        assigned, value = _expectation(sums, log_joint(components, RIDGE))
        gained = value - history[-1] if history else math.inf
        history.append(value)
        if settled and gained < ENOUGH * abs(value):
            break
        before = components.shape[1]
        components = _without_small(assigned)
        settled = components.shape[1] == before
    return components, history


def log_joint(components: Tensor, ridge: float) -> Tensor:
    """(K, 6) float64: coefficients whose product with (1, z1, z2, z1^2, z2^2, z1 z2) is ln pi_k + ln N(z | m_k, S_k).

    components: (6, K) sums over members, as `Axes.sums`. ridge: added to the variances.
    """
    n, *means = components
    m1, m2, square1, square2, product = (row / n for row in means)
    variance1, covariance = (square1 - m1**2).clamp(min=0) + ridge, product - m1 * m2
    slope = covariance / variance1  # of z2 on z1
    rest = (square2 - m2**2 - slope * covariance).clamp(min=0) + ridge  # variance of z2 given z1
    p11, p12, p22 = 1 / variance1 + slope**2 / rest, -slope / rest, 1 / rest
    linear1, linear2 = p11 * m1 + p12 * m2, p12 * m1 + p22 * m2
    constant = (n / n.sum()).log() - math.log(2 * math.pi) - (variance1 * rest).log() / 2
    constant -= (m1 * linear1 + m2 * linear2) / 2
    return torch.stack([constant, linear1, linear2, -p11 / 2, -p22 / 2, -p12], dim=1)


def most_probable(features: Tensor, coefficients: Tensor) -> Tensor:
    """argmax_k (M,) int64 of `log_joint` at features (6, M)."""
    parts = features.split(rows_at_a_time(len(coefficients), features.device), dim=1)
    return torch.cat([(part.T @ coefficients.T).argmax(1) for part in parts])


def log_likelihood(sums: Tensor, coefficients: Tensor) -> float:
    """Sum over the members of all cells, in nats; sums as in `fit_mixture`, coefficients (K, 6) of `log_joint`."""
    return _expectation(sums, coefficients)[1]


def _expectation(sums: Tensor, coefficients: Tensor) -> tuple[Tensor, float]:
    """The cells (6, M) shared out among the components (6, K) by responsibility, and the log-likelihood."""
    assigned, value = sums.new_zeros(6, len(coefficients)), sums.new_zeros(())
    for part in sums.split(rows_at_a_time(len(coefficients), sums.device), dim=1):
        weights = (part / part[0]).T @ coefficients.T  # (rows, K)
        top = weights.amax(1, keepdim=True)
        total = weights.sub_(top).clamp_(min=LEAST).exp_().sum(1)
        assigned.addmm_(part / total, weights)
        value += part[0] @ (top[:, 0] + total.log())
    return assigned, float(value)


def _without_small(components: Tensor) -> Tensor:
    large = components[0] >= FEWEST
    large[components[0].argmax()] = True  # one is left, however few the weights
    return components[:, large]
