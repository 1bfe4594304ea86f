"""One number chosen on validation data: candidates scored by the likelihood of their averaged predictions.

Candidates are compared under common random numbers: draw k of every candidate comes from the same deviates, so that
the noise of the draws cancels in the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import ConfigError, Problem, RunContext, Split, Weights, evaluating, forward

EXAMPLES = 2048
SCAN_BATCH = 256


@dataclass(frozen=True)
class Searched:
    """value: the best. nll: candidate -> mean NLL in nats. at_edge: the best of the grid was its first or last point,
    so the optimum may lie outside."""

    value: float
    nll: dict[float, float]
    at_edge: bool


class Outcome:
    """What a run keeps of its search. Part of checkpoints, so that a search is not repeated when a run goes on."""

    def __init__(self) -> None:
        self.value: float | None = None
        self.at_edge = False

    def remember(self, found: Searched) -> dict[str, float]:
        """Keep what was found; returns what to log: `nll@VALUE` of every candidate."""
        self.value, self.at_edge = found.value, found.at_edge
        return {f"nll@{value:.4g}": nll for value, nll in sorted(found.nll.items())}

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "at_edge": self.at_edge}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.value, self.at_edge = saved["value"], saved["at_edge"]


def validation(problem: Problem, setting: str, value: str | None = None) -> Split:
    """The validation split. setting: the field that asks for it. value: the one that has to be given instead.

    Raises:
        ConfigError: there is none; says how to get one.
    """
    if problem.val is None:
        instead = "" if value is None else f" and give {value}"
        raise ConfigError(
            f"{setting} compares widths on validation data, and this task has no validation split. "
            f"Give the task one in its settings, or set {setting}: false{instead}."
        )
    return problem.val


def scan_batch(ctx: RunContext) -> int:
    """Examples per forward pass of a search."""
    return min(SCAN_BATCH, ctx.micro_batch or SCAN_BATCH)


@torch.no_grad()
def averaged_label_log_probs(
    network: nn.Module, draws: Iterable[Iterable[Weights]], val: Split, batch_size: int
) -> Tensor:
    """ln of the averaged probability of each label, float64 (candidates, n), over the first 2048 examples of `val`.

    draws: per draw, the weights of every candidate, always in the same order. They are used before the next are asked
    for, so all may live in the same memory. The network runs in eval mode.
    """
    val = val.first(EXAMPLES)
    pooled, count = torch.tensor(-math.inf, dtype=torch.float64, device=val.labels.device), 0
    with evaluating(network):
        for candidates in draws:
            scores = torch.stack([_of_labels(network, weights, val, batch_size) for weights in candidates])
            pooled, count = torch.logaddexp(pooled, scores), count + 1
    return pooled - math.log(count)


def _of_labels(network: nn.Module, weights: Weights, val: Split, batch_size: int) -> Tensor:
    """Log-probabilities of the labels (n,), float64, of one set of weights."""
    parts = [
        forward(network, weights, inputs).double().log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
        for inputs, labels in val.batches(batch_size)
    ]
    return torch.cat(parts)


def lowest(nll: Mapping[float, float]) -> float:
    """The value with the lowest NLL; the smallest such value on a tie. NaN counts as worst."""
    return min(nll, key=lambda value: (math.inf if math.isnan(nll[value]) else nll[value], value))
