"""Which passes over the training data come before which iteration."""

from __future__ import annotations

from benchmark import Problem
from methods.weight_fixing.config import WfnConfig


class Schedule:
    """None before the first iteration, `rest_epochs` before each other one; iterations without training count as a
    pass of no steps. lengths: steps of every pass."""

    def __init__(self, config: WfnConfig, problem: Problem) -> None:
        epochs = problem.epochs(config.rest_epochs)
        steps = problem.train.steps(config.batch_size) if epochs else 0
        self._passes = max(1, epochs)
        self.lengths = [0] + [steps] * (self._passes * (len(config.fractions) - 1))

    def closes(self, number: int) -> int | None:
        """The iteration that a pass is followed by."""
        return None if number % self._passes else number // self._passes
