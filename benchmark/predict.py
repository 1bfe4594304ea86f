"""The Monte-Carlo predictive: draws outermost, batches innermost, pooled in float64 as draws stream by.

log p_bar = logsumexp_s(log_softmax(logits_s)) - ln S; logits are cast to float64 before the soft-max.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.contracts import Posterior, Weights
from benchmark.data import Split
from benchmark.errors import PluginError
from benchmark.weights import check_weights, copy_of, evaluating, forward

BATCH_SIZE = 256


@dataclass(frozen=True)
class Predictive:
    """log_probs: (n, K) float32 log of the mean predictive probability. expected_entropy: (n,) float32 mean over
    draws of each draw's entropy in nats, None when S = 1. draws: S, the number of forward passes."""

    log_probs: Tensor
    expected_entropy: Tensor | None
    draws: int


def entropies(log_probs: Tensor) -> Tensor:
    """Entropy in nats (...) of log-probabilities (..., K); 0 log 0 counts as 0, in the gradient too."""
    return -(log_probs.exp() * log_probs.clamp(min=-1e300)).sum(dim=-1)


class Pool:
    """Streams the log-probabilities of draws into their pooled predictive, in float64."""

    def __init__(self) -> None:
        self.draws = 0
        self._log_sum: Tensor | None = None
        self._entropy_sum: Tensor | None = None

    def add(self, log_probs: Tensor) -> None:
        """log_probs: (n, K) float64 of one draw."""
        entropy = entropies(log_probs)
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
    """S: the draws that are made when `draws` are asked for; a finite posterior has no more than its support, and one
    may insist on a number of its own."""
    if posterior.prediction_draws is not None:
        return posterior.prediction_draws
    return draws if posterior.support is None else min(draws, posterior.support)


def kept_draws(posterior: Posterior, draws: int, generator: torch.Generator) -> tuple[Weights, ...]:
    """The weight samples of a prediction as copies, all at once: S networks in memory."""
    return tuple(copy_of(weights) for weights in posterior.draws(effective_draws(posterior, draws), generator))


def has_score(posterior: Posterior) -> bool:
    """Whether the posterior's class defines an uncertainty score of its own.

    Raises:
        PluginError: it does and does not name it, or names one that it does not define.
    """
    kind = type(posterior)
    defined = kind.score is not Posterior.score
    if defined != (kind.score_name is not None):
        fault = "overrides `score` without a `score_name`" if defined else "has a `score_name` and no `score`"
        raise PluginError(f"posterior {kind.__name__} {fault}. Define both or neither.")
    return defined


def own_score(network: nn.Module, posterior: Posterior, draws: Sequence[Weights], inputs: Tensor) -> Tensor | None:
    """The posterior's own score (n,) of one batch of inputs; None when it has none. `network` is in eval mode.

    Raises:
        PluginError: it is not one floating-point number per example.
    """
    if not has_score(posterior):
        return None
    score = posterior.score(network, draws, inputs)
    if score is not None and (score.shape != inputs.shape[:1] or not score.is_floating_point()):
        raise PluginError(
            f"{type(posterior).__name__}.score returned {score.dtype} of shape {tuple(score.shape)}, expected floating "
            f"point of shape ({len(inputs)},)."
        )
    return score


@torch.no_grad()
def own_scores(
    network: nn.Module,
    posterior: Posterior,
    draws: Sequence[Weights],
    split: Split,
    batch_size: int = BATCH_SIZE,
) -> Tensor | None:
    """The posterior's own score, (n,) float32 on the CPU, of every example of a split; None when it has none.

    NaN stays NaN. The network's own weights, buffers and mode are left as they were.
    """
    with evaluating(network):
        parts = [own_score(network, posterior, draws, batch) for batch, _ in split.batches(batch_size)]
    known = [part.float().cpu() for part in parts if part is not None]
    if known and len(known) < len(parts):
        raise PluginError(f"{type(posterior).__name__}.score returned None for some batches of one set.")
    return torch.cat(known) if known else None
