"""Training on several devices: each computes its parts of a batch, and all make the same step.

The numbers are those of one device with the same `accumulate`, up to the order of additions. Running statistics of
norms are an exception: on one device they pass through all k parts of a batch, each with the norm's momentum; here
every one of d devices passes through its own k / d parts, and the results are averaged after each step. They are means
over more steps than on one device, and over the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmark import ConfigError, RunContext, Split, weights_of
from methods.map.averaging import statistics_of
from methods.map.config import TrainingConfig
from methods.map.evaluation import Evaluation, evaluate


class Parallel:
    """What a training step does where `ctx.team` has several members.

    whole(t): how many examples the whole batch of step t has. share: the parts of it that are this device's.

    Raises:
        ConfigError: the parts cannot be dealt out evenly, or the smallest batch has fewer examples than parts.
    """

    def __init__(self, ctx: RunContext, network: nn.Module, train: Split, config: TrainingConfig) -> None:
        self._team = ctx.team
        _check(ctx.team.size, train, config)
        share = ctx.team.share(config.accumulate)
        assert share is not None, "a team of one needs no exchange"
        self.share = share
        self.whole: Callable[[int], int] = lambda t: train.batch_length(
            config.batch_size, t % train.steps(config.batch_size)
        )
        named = weights_of(network)
        self._statistics = [named[name] for name in sorted(statistics_of(network)) if name in named]
        self._used: list[bool] | None = None

    @torch.no_grad()
    def complete(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        """Add up the loss () and the gradients over the devices, and average the statistics, all in place, so that the
        devices stay the same to the last bit. In fp16 all gradients have the same scale. Does not wait for a GPU."""
        used = [weight.grad is not None for weight in weights]
        if used != self._used:
            self._agree(used)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self._statistics:
            torch._foreach_div_(self._statistics, float(self._team.size))
        self._team.add_up([*gradients, *self._statistics, loss])

    def _agree(self, used: list[bool]) -> None:
        if self._used is not None:
            raise ConfigError(
                "a network of which other weights take part in every step cannot be trained on several devices.\n"
                "  Run it with devices: 1."
            )
        self._team.require_same("which weights have a gradient", "".join("01"[flag] for flag in used))
        self._used = used


def parallel_over(ctx: RunContext, network: nn.Module, train: Split, config: TrainingConfig) -> Parallel | None:
    """None on one device. Errors as `Parallel`."""
    return None if ctx.team.size == 1 else Parallel(ctx, network, train, config)


def evaluated(ctx: RunContext, network: nn.Module, split: Split | None) -> Evaluation | None:
    """`evaluate` on the first device, for all of them: they have the same network. None without a split."""
    if split is None:
        return None

    def compute() -> tuple[float, float]:
        found = evaluate(network, split)
        return found.nll, found.accuracy

    nll, accuracy = ctx.team.from_first(compute, 2)
    return Evaluation(nll, accuracy)


def _check(devices: int, train: Split, config: TrainingConfig) -> None:
    parts = config.accumulate
    if parts % devices:
        raise ConfigError(
            f"devices: {devices} needs 'accumulate' to be a multiple of {devices}, got {parts}: the devices share the "
            f"parts of a batch.\n  Set 'accumulate: {devices}' (another run, as statistics and mixing are those of a "
            "part) or another number of devices."
        )
    smallest = len(train) // train.steps(config.batch_size)
    if smallest < parts:
        raise ConfigError(
            f"devices: {devices} needs batches of at least 'accumulate: {parts}' examples, and the smallest has "
            f"{smallest}.\n  Lower 'accumulate', raise 'batch_size', or run with devices: 1."
        )
