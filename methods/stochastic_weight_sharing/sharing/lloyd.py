"""KL clustering: Lloyd's algorithm for Gaussians, with the KL divergence as the cost (Bregman clustering: Banerjee,
Merugu, Dhillon, Ghosh, 2005).

Minimises sum_i KL(N(x_i, s_i^2) || N(a_c, b_c^2)) over labels and codewords; with T = sum of x^2 + s^2 a cell's cost is
n/2 [ (T/n - 2 a x + a^2) / b^2 + ln b^2 ] + const, x the cell's mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.moments import Moments, mean_kl
from methods.stochastic_weight_sharing.sharing.seeding import seed

ITERATIONS = 10
LEAST_GAIN = 1e-5
"""Relative decrease of the mean KL below which it is over."""
BLOCK_BYTES = 2 << 20
"""Of a block of the table cells x codewords: the processor's cache."""


def cluster_kl(moments: Moments, count: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Labels (M,) int64 and their number K <= count, after 10 iterations from k-means++ seeds.

    With no more cells than `count`, each is a cluster.
    """
    if len(moments) <= count:
        return torch.arange(len(moments), device=moments.table.device), len(moments)
    labels = assign(moments, *seed(moments, count, generator))
    return refine(moments, labels, count, ITERATIONS)


def refine(moments: Moments, labels: Tensor, groups: int, iterations: int) -> tuple[Tensor, int]:
    """Labels (M,) int64 and their number after at most `iterations` of: codewords of the members, nearest codeword.

    labels: (M,) int64 in [0, groups). The mean KL never increases; it is over when it falls by less than 1e-5 of
    itself. Clusters without members are dropped.
    """
    labels, clusters = _filled(moments, labels, groups)
    kl = mean_kl(clusters)
    for _ in range(iterations):
        new_labels, new_clusters = _filled(moments, assign(moments, *clusters.codewords()), len(clusters))
        before, kl = kl, mean_kl(new_clusters)
        if kl > before:  # by rounding, where nothing is left to gain
            break
        labels, clusters = new_labels, new_clusters
        if before - kl < LEAST_GAIN * before:
            break
    return labels, len(clusters)


def assign(moments: Moments, a: Tensor, variance: Tensor) -> Tensor:
    """(M,) int64: the codeword (a, b^2), each (K,) float64, of least mean KL; of equal ones the first."""
    precision = 1 / variance
    constant = a.square() * precision - precision.log()
    rows = torch.stack([-2 * a * precision, precision])
    features = torch.stack([moments.mean_of("x"), moments.total / moments.n], dim=1)
    parts = features.split(max(1, BLOCK_BYTES // (8 * len(a))))
    table = torch.empty(len(parts[0]), len(a), dtype=a.dtype, device=a.device)
    return torch.cat([_first_least(torch.addmm(constant, part, rows, out=table[: len(part)])) for part in parts])


def _first_least(table: Tensor) -> Tensor:
    """Position of the least number of each row; on the CPU by numpy, nine times as fast as torch."""
    if table.device.type == "cpu":
        return torch.from_numpy(table.numpy().argmin(1))
    return table.argmin(1)


def _filled(moments: Moments, labels: Tensor, groups: int) -> tuple[Tensor, Moments]:
    """Labels without gaps, and the clusters, all with members."""
    clusters = moments.pooled(labels, groups)
    filled = clusters.n > 0
    return (filled.cumsum(0) - 1)[labels], clusters.chosen(filled)
