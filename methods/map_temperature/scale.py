"""The temperature of lowest NLL: a convex problem in one number, solved by bisection."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.05, 20.0
"""Range of beta = 1/T, hence of T too."""
BISECTIONS = 100
FLAT = 1e-9
"""Slopes this small at a bound count as zero: for separable data underflow leaves noise of either sign there."""


@dataclass(frozen=True)
class Scale:
    """temperature: T in [0.05, 20]; above 1 the network is over-confident. at_bound: the minimum lies outside."""

    temperature: float
    at_bound: bool


def fit_scale(logits: Tensor, labels: Tensor) -> Scale:
    """The T that minimises the mean NLL of softmax(logits / T).

    logits: (n, K) float64, finite (log-probabilities do as well: T sees differences within a row only).
    labels: (n,) int64.
    L(beta) = mean_i [logsumexp_k(beta z_ik) - beta z_iy] is convex; the root of L' is found by bisection of ln beta.
    """
    logits = logits - logits.amax(dim=1, keepdim=True)  # leaves L' unchanged and cannot overflow
    target = logits.gather(1, labels[:, None]).squeeze(1)  # (n,)

    def slope(beta: float) -> float:
        expected = ((beta * logits).softmax(dim=1) * logits).sum(dim=1)  # (n,)
        return float((expected - target).mean())

    if slope(HIGHEST) <= FLAT:
        return Scale(1 / HIGHEST, at_bound=True)
    if slope(LOWEST) >= -FLAT:
        return Scale(1 / LOWEST, at_bound=True)
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break  # no double lies between them
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return Scale(math.exp(-(low + high) / 2), at_bound=False)


def scaled_nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Mean NLL in nats of softmax(logits / T)."""
    return float(torch.nn.functional.cross_entropy(logits / temperature, labels))
