"""The training loop that the methods share: epochs, schedules, resume. What happens in a step is the method's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
    epochs: int,
    batch_size: int,
    step: Callable[[Tensor, Tensor, int], float | Tensor],
    stateful: Mapping[str, Stateful],
    after_epoch: Callable[[int, float], bool | None] = lambda epoch, loss: None,
    data_seed: int | None = None,
) -> None:
    """Run `epochs` passes over the training split, from a checkpoint if there is one.

    step(inputs, labels, t): one optimiser step, t = 0 .. T-1 over the whole training; returns the batch loss
        (a detached tensor is not read until the epoch ends, so nothing waits for the device).
    stateful: everything that `step` and `after_epoch` change, by name.
    after_epoch(epoch, mean_loss): validation, logging; True ends the training early.
    data_seed: what order and augmentation are drawn from; the run's own unless given (independent members of one run).

    The order and augmentation of an epoch depend on that seed and the epoch's number only, so a run resumed
    in the middle of an epoch sees the batches that an uninterrupted one would have seen.
    """
    steps = problem.train.steps(batch_size)
    done, losses, stopped = _restore(ctx, stateful)
    data_seed = ctx.seed_for("data") if data_seed is None else data_seed
    for epoch in range(done // steps, epochs):
        if stopped:
            break
        order = torch.Generator().manual_seed(seed_from(data_seed, epoch))
        for index, (inputs, labels) in enumerate(problem.train.training_batches(batch_size, order)):
            if epoch * steps + index < done:
                continue  # already done before the interruption; drawn only to keep the generator in step
            losses.append(_detached(step(inputs, labels, done)))
            done += 1
            ctx.progress(done, epochs * steps)
            if index < steps - 1:
                _offer(ctx, stateful, done, losses, stopped)
        stopped = bool(after_epoch(epoch, float(torch.stack(losses).mean())))
        losses = []
        _offer(ctx, stateful, done, losses, stopped)


def saved_part(ctx: RunContext, name: str) -> Any:
    """What the checkpoint holds of `stateful[name]` of `train`; None at a first start. For parts that have to be built
    from it before they can be restored."""
    saved = ctx.checkpoint.load()
    return None if saved is None else saved["parts"][name]


def _restore(ctx: RunContext, stateful: Mapping[str, Stateful]) -> tuple[int, list[Tensor], bool]:
    saved = ctx.checkpoint.load()
    if saved is None:
        return 0, [], False
    for name, part in stateful.items():
        part.load_state_dict(saved["parts"][name])
    return saved["done"], list(saved["losses"].to(ctx.device)), saved["stopped"]


def _offer(ctx: RunContext, stateful: Mapping[str, Stateful], done: int, losses: list[Tensor], stopped: bool) -> None:
    ctx.checkpoint.offer(
        lambda: {
            "done": done,
            "stopped": stopped,
            "losses": torch.stack(losses) if losses else torch.zeros(0),
            "parts": {name: part.state_dict() for name, part in stateful.items()},
        }
    )


def _detached(loss: float | Tensor) -> Tensor:
    return loss.detach() if isinstance(loss, Tensor) else torch.tensor(loss)


def cosine(t: int, total: int, high: float, low: float = 0.0) -> float:
    """Cosine decay from `high` at t = 0 to `low` at t = total (Loshchilov and Hutter 2017, without restarts)."""
    return low + (high - low) * (1 + math.cos(math.pi * min(t, total) / max(total, 1))) / 2


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
