"""The L2 term of the components and its gradients by hand.

What is added to the mean cross-entropy is lambda / (2C) sum_c |W_c|^2, lambda the base run's L2 coefficient; with
P_c = L_c R_c, layer by layer,
    dW = lambda mean_c(P_c^2) * W,   dL_c = lambda/C (P_c * W^2) R_c^T,   dR_c = lambda/C L_c^T (P_c * W^2)
(BayesAdapter, arXiv 2010.01979). Nothing is differentiated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from methods.finetuning.descent import gradient_of
from methods.finetuning.flat import CHUNK
from methods.parameter_sharing_ensemble.factors import Factors, products, rows


class Gradients(NamedTuple):
    """weight (O, J), left (C, O, r), right (C, r, J)."""

    weight: Tensor
    left: Tensor
    right: Tensor


def prior_gradients(weight: Tensor, left: Tensor, right: Tensor, lam: float) -> Gradients:
    """Of one layer: weight (O, J), left (C, O, r), right (C, r, J)."""
    return (_rank_one if right.shape[1] == 1 else _any_rank)(weight, left, right, lam / len(left))


def _rank_one(weight: Tensor, left: Tensor, right: Tensor, rate: float) -> Gradients:
    """P_c^2 = L_c^2 R_c^2 is of rank one too: sums over components and weights are matrix products, and no P_c is
    ever formed."""
    by_row, by_column = left[:, :, 0], right[:, 0]  # (C, O), (C, J)
    square = weight.square()
    return Gradients(
        (by_row.square().T @ by_column.square()).mul_(weight).mul_(rate),
        (by_column.square() @ square.T).mul_(by_row).mul_(rate)[:, :, None],
        (by_row.square() @ square).mul_(by_column).mul_(rate)[:, None],
    )


def _any_rank(weight: Tensor, left: Tensor, right: Tensor, rate: float) -> Gradients:
    square = weight.square()
    total, by_left, by_right = torch.zeros_like(weight), torch.empty_like(left), torch.empty_like(right)
    for chosen, product in products(left, right, elements=4 * CHUNK):
        total.add_(product.square().sum(0))
        product.mul_(square)
        by_left[chosen] = torch.bmm(product, right[chosen].mT)
        by_right[chosen] = torch.bmm(left[chosen].mT, product)
    return Gradients(total.mul_(weight).mul_(rate), by_left.mul_(rate), by_right.mul_(rate))


@torch.no_grad()
def add_prior_gradients(weights: Mapping[str, Tensor], factors: Factors, lam: float) -> None:
    """Add them to `.grad` of the weights and the factors, layer by layer."""
    for name, weight in weights.items():
        left, right = factors.left[name], factors.right[name]
        found = prior_gradients(rows(weight), left, right, lam)
        for leaf, gradient in ((weight, found.weight.view_as(weight)), (left, found.left), (right, found.right)):
            gradient_of(leaf).add_(gradient)


@torch.no_grad()
def l2_term(weights: Mapping[str, Tensor], factors: Factors, lam: float) -> float:
    """lambda / (2C) sum_c |W_c|^2, in nats."""
    total = 0.0
    for name, weight in weights.items():
        gradient = prior_gradients(rows(weight), factors.left[name], factors.right[name], lam).weight
        total += float((gradient * rows(weight)).sum(dtype=torch.float64)) / 2  # the term is quadratic in W
    return total
