"""The Monte-Carlo predictive: draws outermost, batches innermost, pooled in float64 as draws stream by.

log p_bar = logsumexp_s(log_softmax(logits_s)) - ln S; logits are cast to float64 before the soft-max.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.contracts import Posterior
from benchmark.data import Split
from benchmark.weights import check_weights, evaluating, forward

BATCH_SIZE = 256


@dataclass(frozen=True)
class Predictive:
    """log_probs: (n, K) float32 log of the mean predictive probability. expected_entropy: (n,) float32 mean over
    draws of each draw's entropy in nats, None when S = 1. draws: S, the number of forward passes."""

    log_probs: Tensor
    expected_entropy: Tensor | None
    draws: int


class Pool:
    """Streams the log-probabilities of draws into their pooled predictive, in float64."""

    def __init__(self) -> None:
        self.draws = 0
        self._log_sum: Tensor | None = None
        self._entropy_sum: Tensor | None = None

    def add(self, log_probs: Tensor) -> None:
        """log_probs: (n, K) float64 of one draw."""
        entropy = -(log_probs.exp() * log_probs.clamp(min=-1e300)).sum(dim=-1)  # 0 * -inf counts as 0
        if self._log_sum is None or self._entropy_sum is None:
            self._log_sum, self._entropy_sum = log_probs.clone(), entropy
        else:
            self._log_sum = torch.logaddexp(self._log_sum, log_probs)
            self._entropy_sum += entropy
        self.draws += 1

    def result(self) -> Predictive:
        """The pooled predictive of the draws so far (at least one), on the CPU."""
        if self._log_sum is None or self._entropy_sum is None:
            raise ValueError("no draw was added")
        log_probs = (self._log_sum - math.log(self.draws)).float().cpu()
        expected = (self._entropy_sum / self.draws).float().cpu() if self.draws > 1 else None
        return Predictive(log_probs, expected, self.draws)


@torch.no_grad()
def draw_log_probs(
    network: nn.Module, posterior: Posterior, weights: Mapping[str, Tensor], split: Split, batch_size: int = BATCH_SIZE
) -> Tensor:
    """Log class probabilities (n, K), float64, of one weight sample over a whole split. `network` is in eval mode."""
    parts = [posterior.log_probs(forward(network, weights, inputs).double()) for inputs, _ in split.batches(batch_size)]
    return torch.cat(parts)


@torch.no_grad()
def predict(
    network: nn.Module,
    posterior: Posterior,
    split: Split,
    draws: int,
    generator: torch.Generator,
    batch_size: int = BATCH_SIZE,
) -> Predictive:
    """The predictive of `min(draws, support)` weight samples over a split, on the split's device.

    A draw is made once and used for the whole set, so that joint predictions are those of one network. The
    network's own weights, buffers and mode are left as they were.
    """
    pool = Pool()
    with evaluating(network):
        for weights in posterior.draws(effective_draws(posterior, draws), generator):
            if pool.draws == 0:
                check_weights(network, weights)
            pool.add(draw_log_probs(network, posterior, weights, split, batch_size))
    return pool.result()


def effective_draws(posterior: Posterior, draws: int) -> int:
    """S: the draws that are made when `draws` are asked for; a finite posterior has no more than its support."""
    return draws if posterior.support is None else min(draws, posterior.support)
