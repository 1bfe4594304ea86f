"""The training of all rounds: passes over the data, some cut short."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmark import Problem
from methods.probabilistic_weight_fixing.config import WeightFixingConfig
from methods.probabilistic_weight_fixing.learner import Part


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
    start = max(1, math.floor(round(config.start_fraction * whole, 6)))
    rest = problem.epochs(config.rest_epochs)
    parts: tuple[Part, ...] = ("means", "sigmas") if config.alternate else ("all",)
    planned: list[Pass] = []
    for index in range(len(config.fractions)):
        steps = start if index == 0 else whole
        kinds = [part for part in parts for _ in range(config.start_epochs if index == 0 else rest)]
        lengths = [(steps, part) for part in kinds] or [(0, parts[0])]
        planned += [Pass(index, n, part, k == len(lengths)) for k, (n, part) in enumerate(lengths, start=1)]
    return tuple(planned)
