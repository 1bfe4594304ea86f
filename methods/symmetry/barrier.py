"""Loss and error along the straight line between two networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmark import Split, evaluating, forward
from methods.finetuning.modes import norms
from methods.finetuning.statistics import reset_statistics

GRID = 25
_STACKED = 1 << 24
"""Weights of all points together up to which they are evaluated at once."""


@dataclass(frozen=True)
class Barrier:
    """w_t = (1 - t) A + t B at the points of `t`.

    loss: mean cross-entropy in nats; error: share of wrong arg-max predictions; both in the order of `t`. distances:
    |A - B| of every parameter by name. All else follows; nothing is clipped, so that a line that runs lower than the
    chord has a negative midpoint. The largest excess is at least 0, its value at both ends.
    """

    t: tuple[float, ...]
    loss: tuple[float, ...]
    error: tuple[float, ...]
    distances: Mapping[str, float]

    @property
    def loss_excess(self) -> tuple[float, ...]:
        """L(w_t) - (1 - t) L(A) - t L(B)."""
        return self._excess(self.loss)

    @property
    def error_excess(self) -> tuple[float, ...]:
        """The same of the error."""
        return self._excess(self.error)

    @property
    def loss_barrier(self) -> float:
        """The largest excess of the loss."""
        return max(self.loss_excess)

    @property
    def error_barrier(self) -> float:
        """The largest excess of the error."""
        return max(self.error_excess)

    @property
    def midpoint_loss(self) -> float:
        """The excess of the loss at t = 1/2."""
        return self.loss_excess[len(self.t) // 2]

    @property
    def midpoint_error(self) -> float:
        """The excess of the error at t = 1/2."""
        return self.error_excess[len(self.t) // 2]

    @property
    def distance(self) -> float:
        """|A - B| over all parameters."""
        return math.hypot(*self.distances.values())

    def _excess(self, values: tuple[float, ...]) -> tuple[float, ...]:
        first, last = values[0], values[-1]
        return tuple(value - (1 - t) * first - t * last for t, value in zip(self.t, values, strict=True))


@torch.no_grad()
def barrier(
    network: nn.Module,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    split: Split,
    grid: int = GRID,
    *,
    reset: Split | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> Barrier:
    """Evaluate the line at `grid` evenly spaced points, both ends among them, in eval mode.

    a, b: every parameter and floating-point buffer of `network`, which is left as it was. reset: training data from
    which the running statistics of every point are estimated anew (`seed` orders it); None: they lie on the line too.
    The points of small networks without convolutions are evaluated together, those of others one after the other:
    convolutions with weights of their own per point become grouped ones, which are no faster.

    Raises:
        ValueError: a grid without a midpoint, or names that differ.
    """
    if grid < 3 or grid % 2 == 0:
        raise ValueError(f"a grid of {grid} points has no midpoint besides its ends; legal: 3, 5, 7, ...")
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        raise ValueError("the ends of a line need the same names and shapes")
    t = torch.linspace(0, 1, grid, dtype=torch.float64)
    together = _fits_together(network, a, grid) and (reset is None or not norms(network))
    with evaluating(network):
        if together:
            totals = _together(network, a, b, t, split, batch_size)
        else:
            points = _points(network, a, b, t, reset, seed, batch_size)
            totals = torch.stack([_totals(partial(forward, network, point), split, batch_size) for point in points])
    loss, error = (totals / len(split)).T.tolist()
    names = [name for name, _ in network.named_parameters()]
    far = torch.stack([(a[name].double() - b[name].double()).norm() for name in names]).tolist()
    return Barrier(tuple(t.tolist()), tuple(loss), tuple(error), dict(zip(names, far, strict=True)))


def _fits_together(network: nn.Module, weights: Mapping[str, Tensor], grid: int) -> bool:
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in network.modules())
    return not convolves and grid * sum(tensor.numel() for tensor in weights.values()) <= _STACKED


def _points(
    network: nn.Module,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    t: Tensor,
    reset: Split | None,
    seed: int,
    batch_size: int,
) -> Iterator[dict[str, Tensor]]:
    for one in t.tolist():
        weights = {name: torch.lerp(a[name], b[name], one) for name in a}
        yield weights if reset is None else weights | reset_statistics(network, weights, reset, batch_size, seed)


def _together(
    network: nn.Module, a: Mapping[str, Tensor], b: Mapping[str, Tensor], t: Tensor, split: Split, batch_size: int
) -> Tensor:
    """(G, 2) totals of all points in one pass."""

    def between(name: str) -> Tensor:
        start, end = a[name], b[name]
        return torch.lerp(start, end, t.to(start).view(-1, *[1] * start.ndim))

    stacked = {name: between(name) for name in a}

    def logits(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        out: Tensor = functional_call(network, weights, (inputs,))
        return out

    of_all = torch.vmap(logits, in_dims=(0, None))
    return _totals(lambda inputs: of_all(stacked, inputs), split, batch_size)


def _totals(logits_of: Callable[[Tensor], Tensor], split: Split, batch_size: int) -> Tensor:
    """Sums of cross-entropy and of errors, (..., 2) float64, for logits (..., b, K)."""
    losses, errors = [], []
    for inputs, labels in split.batches(batch_size):
        log_probs = logits_of(inputs).double().log_softmax(-1)
        index = labels.expand(log_probs.shape[:-1])[..., None]
        losses.append(-log_probs.gather(-1, index).sum((-1, -2)))
        errors.append((log_probs.argmax(-1) != labels).sum(-1).double())
    return torch.stack([torch.stack(losses).sum(0), torch.stack(errors).sum(0)], -1)
