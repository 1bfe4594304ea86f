"""The training loop that the methods share: epochs, schedules, resume. What happens in a step is the method's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmark import Problem, RunContext, seed_from


class Stateful(Protocol):
    """What a checkpoint saves and restores: networks, optimisers, a method's own record."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


def train(
    problem: Problem,
    ctx: RunContext,
    *,
    epochs: int | Sequence[int],
    batch_size: int,
    step: Callable[[Tensor, Tensor, int], float | Tensor],
    stateful: Mapping[str, Stateful],
    before_epoch: Callable[[int], None] = lambda epoch: None,
    after_epoch: Callable[[int, float], bool | None] = lambda epoch, loss: None,
    data_seed: int | None = None,
    parts: int = 1,
) -> None:
    """Run `epochs` passes over the training split, from a checkpoint if there is one.

    epochs: how many; or the steps of each, where they are cut short, 0 for an epoch of hooks alone.
    step(inputs, labels, t): one optimiser step, t = 0 .. T-1 over the whole training; returns the batch loss
        (a detached tensor is not read until the epoch ends, so nothing waits for the device).
    stateful: everything that `step` and the hooks change, by name.
    before_epoch(epoch): called whenever an epoch is entered, in its middle, too, where a run goes on.
    after_epoch(epoch, mean_loss): validation, logging; True ends the training early. The loss of no step is NaN.
    data_seed: what order and augmentation are drawn from; the run's own unless given (independent members of one run).
    parts: into how many equal parts `step` cuts a batch. Of several devices each is given its share of them, and `step`
        and the hooks leave everything in `stateful` the same on all of them.

    The order and augmentation of an epoch depend on that seed and the epoch's number only, so a run resumed
    in the middle of an epoch sees the batches that an uninterrupted one would have seen.
    """
    steps = _steps(epochs, problem.train.steps(batch_size))
    position, share = _restore(ctx, stateful), ctx.team.share(parts)
    data_seed = ctx.seed_for("data") if data_seed is None else data_seed
    for epoch in range(position.epoch, len(steps)):
        if position.stopped:
            break
        before, total = sum(steps[:epoch]), sum(steps)
        before_epoch(epoch)
        order = torch.Generator().manual_seed(seed_from(data_seed, epoch))
        batches = problem.train.training_batches(batch_size, order, skip=position.done, share=share)
        remaining = itertools.islice(batches, max(steps[epoch] - position.done, 0))
        for index, (inputs, labels) in enumerate(remaining, start=position.done):
            position.losses.append(_detached(step(inputs, labels, before + index)))
            position.done = index + 1
            ctx.progress(before + position.done, total)
            if position.done < steps[epoch]:
                position.offer(ctx, stateful)
        position = _Position(epoch + 1, stopped=bool(after_epoch(epoch, position.mean_loss())))
        position.offer(ctx, stateful)


def _steps(epochs: int | Sequence[int], whole: int) -> list[int]:
    """Of each epoch."""
    if isinstance(epochs, int):
        return [whole] * epochs
    for epoch, steps in enumerate(epochs):
        if not 0 <= steps <= whole:
            raise ValueError(f"epoch {epoch} has {steps} steps; legal: 0 to {whole}, the batches of the training split")
    return list(epochs)


@dataclass
class _Position:
    """Where a training stands: the epoch, the steps done of it and their losses, and whether it was ended early."""

    epoch: int = 0
    done: int = 0
    losses: list[Tensor] = field(default_factory=list)
    stopped: bool = False

    def mean_loss(self) -> float:
        return float(torch.stack(self.losses).mean()) if self.losses else math.nan

    def offer(self, ctx: RunContext, stateful: Mapping[str, Stateful]) -> None:
        """A point where the run can resume."""
        ctx.checkpoint.offer(
            lambda: {
                "epoch": self.epoch,
                "done": self.done,
                "losses": torch.stack(self.losses) if self.losses else torch.zeros(0),
                "stopped": self.stopped,
                "parts": {name: part.state_dict() for name, part in stateful.items()},
            }
        )


def saved_part(ctx: RunContext, name: str) -> Any:
    """What the checkpoint holds of `stateful[name]` of `train`; None at a first start. For parts that have to be built
    from it before they can be restored."""
    saved = ctx.checkpoint.load()
    return None if saved is None else saved["parts"][name]


def _restore(ctx: RunContext, stateful: Mapping[str, Stateful]) -> _Position:
    saved = ctx.checkpoint.load()
    if saved is None:
        return _Position()
    for name, part in stateful.items():
        part.load_state_dict(saved["parts"][name])
    return _Position(saved["epoch"], saved["done"], list(saved["losses"].to(ctx.device)), saved["stopped"])


def _detached(loss: float | Tensor) -> Tensor:
    return loss.detach() if isinstance(loss, Tensor) else torch.tensor(loss)


def cosine(t: int, total: int, high: float, low: float = 0.0) -> float:
    """Cosine decay from `high` at t = 0 to `low` at t = total (Loshchilov and Hutter 2017, without restarts)."""
    return low + (high - low) * (1 + math.cos(math.pi * min(t, total) / max(total, 1))) / 2


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
