"""How far members are apart in their features: the pair's distance, its hinge, and the variance over all members.

For independent features f_1, f_2 of one law, E mean (f_1 - f_2)^2 = 2 mean Var f: the hinge acts on twice the score.
"""

from __future__ import annotations

from torch import Tensor

from methods.finetuning.points import floating


def distance(first: Tensor, second: Tensor) -> Tensor:
    """d_i = mean_k (f1_ik - f2_ik)^2, at least float32 (n,). first, second: features (n, ...) of two members."""
    return (floating(first) - floating(second)).square().flatten(1).mean(1)


def hinge(distances: Tensor, gamma: float) -> Tensor:
    """mean_i max(0, gamma - d_i), (). At d = 0 its gradient with respect to the features is 0."""
    return (gamma - distances).clamp(min=0).mean()


def variance(features: Tensor) -> Tensor:
    """Unbiased variance over members, averaged over the entries of the features: at least float32 (n,).

    features: (C, n, ...), C >= 2.
    """
    return floating(features).var(dim=0).flatten(1).mean(1)
