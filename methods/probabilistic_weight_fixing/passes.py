"""The training of all rounds: passes over the data, some cut short, and stopping anywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import Problem, RunContext, seed_from
from methods.probabilistic_weight_fixing.config import WeightFixingConfig
from methods.probabilistic_weight_fixing.learner import Part
from methods.training import Stateful


@dataclass(frozen=True)
class Pass:
    """One pass over the training data. steps: batches of it, at most all; 0 where a round has no training. closes:
    whether the weights of `round` are fixed after it."""

    round: int
    steps: int
    part: Part
    closes: bool


def passes_of(config: WeightFixingConfig, problem: Problem) -> tuple[Pass, ...]:
    """Every pass of a fit: a short training before the first round, `rest_epochs` before each other one."""
    whole = problem.train.steps(config.batch_size)
    start = max(1, math.floor(config.start_fraction * whole))
    rest = problem.epochs(config.rest_epochs)
    parts: tuple[Part, ...] = ("means", "sigmas") if config.alternate else ("all",)
    planned: list[Pass] = []
    for index in range(len(config.fractions)):
        steps = start if index == 0 else whole
        kinds = [part for part in parts for _ in range(config.start_epochs if index == 0 else rest)]
        lengths = [(steps, part) for part in kinds] or [(0, parts[0])]
        planned += [Pass(index, n, part, k == len(lengths)) for k, (n, part) in enumerate(lengths, start=1)]
    return tuple(planned)


def train_passes(
    problem: Problem,
    ctx: RunContext,
    passes: Sequence[Pass],
    *,
    batch_size: int,
    begin: Callable[[Pass], None],
    step: Callable[[Tensor, Tensor, int], Tensor],
    after: Callable[[int, float | None], None],
    stateful: Mapping[str, Stateful],
) -> None:
    """Run all passes, from a checkpoint if there is one.

    begin(one): called whenever a pass is entered, in its middle, too. step(inputs, labels, t): one optimiser step, t
    over all passes; the batch loss, detached. after(number, mean_loss): None without a step. stateful: everything that
    changes, by name.

    Order and augmentation of a pass depend on the run's seed and the number of the pass only.
    """
    position = _Position()
    saved = ctx.checkpoint.load()
    if saved is not None:
        position = _Position(saved["number"], saved["done"], list(saved["losses"].to(ctx.device)))
        for name, part in stateful.items():
            part.load_state_dict(saved["parts"][name])
    total, seed = sum(one.steps for one in passes), ctx.seed_for("data")
    for number in range(position.number, len(passes)):
        one, before = passes[number], sum(earlier.steps for earlier in passes[:number])
        begin(one)
        order = torch.Generator().manual_seed(seed_from(seed, number))
        batches = itertools.islice(problem.train.training_batches(batch_size, order), one.steps)
        for index, (inputs, labels) in enumerate(batches):
            if index < position.done:
                continue  # before the interruption; drawn only to keep the generator in step
            position.losses.append(step(inputs, labels, before + index))
            position.done = index + 1
            ctx.progress(before + position.done, total)
            if position.done < one.steps:
                position.offer(ctx, stateful)
        after(number, float(torch.stack(position.losses).mean()) if position.losses else None)
        position = _Position(number + 1)
        position.offer(ctx, stateful)


class _Position:
    """Where a training stands: the pass, the steps done of it, and their losses."""

    def __init__(self, number: int = 0, done: int = 0, losses: list[Tensor] | None = None) -> None:
        self.number, self.done, self.losses = number, done, losses or []

    def offer(self, ctx: RunContext, stateful: Mapping[str, Stateful]) -> None:
        ctx.checkpoint.offer(
            lambda: {
                "number": self.number,
                "done": self.done,
                "losses": torch.stack(self.losses) if self.losses else torch.zeros(0),
                "parts": {name: part.state_dict() for name, part in stateful.items()},
            }
        )
