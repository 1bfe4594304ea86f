"""The leapfrog step: a first guess, and its adaptation to an acceptance rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmark import Diverged

FIRST = 1e-3
THRESHOLD = 0.5
MOST_DOUBLINGS = 40


def initial_step_size(acceptance: Callable[[float], float], start: float = FIRST) -> float:
    """The last of start, 2 start, 4 start, ... (or of start/2, start/4, ...) on the accepted side of where `acceptance`
    crosses 0.5 (Hoffman and Gelman 2014, algorithm 4).

    acceptance: step size -> mean acceptance probability of one leapfrog step, a function of nothing else.

    Raises:
        Diverged: no step size down to 1e-15 is accepted: the density or its gradient is not finite at the start.
    """
    step = start
    if acceptance(step) >= THRESHOLD:
        for _ in range(MOST_DOUBLINGS):  # a flat density would accept for ever
            if acceptance(2 * step) < THRESHOLD:
                break
            step *= 2
        return step
    for _ in range(MOST_DOUBLINGS):
        step /= 2
        if acceptance(step) >= THRESHOLD:
            return step
    raise Diverged(
        f"no leapfrog step from {start:g} down to {step:g} is accepted: log density or gradient are not finite where "
        "the chains start. Look at inputs and initial weights, or set init: map."
    )


class DualAveraging:
    """Step sizes whose acceptance tends to `target` (Hoffman and Gelman 2014, section 3.2). Part of checkpoints."""

    GAMMA, T0, KAPPA = 0.05, 10, 0.75

    def __init__(self, step_size: float, target: float) -> None:
        self._target = target
        self._mu = math.log(10 * step_size)
        self._count, self._error = 0, 0.0
        self._log_step, self._log_average = math.log(step_size), 0.0

    @property
    def step_size(self) -> float:
        """For the next trajectory."""
        return math.exp(self._log_step)

    @property
    def average(self) -> float:
        """What to keep when adaptation ends; the start before any update."""
        return math.exp(self._log_average) if self._count else self.step_size

    def update(self, acceptance: float) -> None:
        """acceptance: mean probability (not the share of accepted moves) of the last trajectory, over chains."""
        self._count += 1
        weight = 1 / (self._count + self.T0)
        self._error = (1 - weight) * self._error + weight * (self._target - acceptance)
        self._log_step = self._mu - math.sqrt(self._count) / self.GAMMA * self._error
        share = self._count**-self.KAPPA
        self._log_average = share * self._log_step + (1 - share) * self._log_average

    def state_dict(self) -> dict[str, Any]:
        return {
            "mu": self._mu,
            "count": self._count,
            "error": self._error,
            "log_step": self._log_step,
            "log_average": self._log_average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mu, self._count, self._error = state["mu"], state["count"], state["error"]
        self._log_step, self._log_average = state["log_step"], state["log_average"]
