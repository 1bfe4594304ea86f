"""The cyclical learning rate: explore, then sample (Zhang et al. 2020, arXiv 1902.03932)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from benchmark import ConfigError
from methods.hmc.config import SamplingConfig
from methods.map.recipe import has_layer_norm

AUTO_RATE, AUTO_TRANSFORMER_RATE = 0.1, 0.01


@dataclass(frozen=True)
class Cycle:
    """One cycle of `steps` steps; phase b = t / steps of its step t = 0 .. steps - 1.

    explore: a step samples, with noise, when b >= explore. schedule: the rate is (cos(pi b) + 1)/2 of its start, and
    with `held` never below its value at b = explore, so that a constant step size samples. snapshots: states that are
    stored, evenly spaced among the sampling steps, the last one included.

    Raises:
        ConfigError: fewer sampling steps than snapshots.
    """

    steps: int
    explore: float
    schedule: Literal["held", "cosine"]
    snapshots: int

    def __post_init__(self) -> None:
        if self.sampling_steps < self.snapshots:
            raise ConfigError(
                f"a cycle of {self.steps} steps samples in {self.sampling_steps} of them, after a share of "
                f"{self.explore:g} for exploring, and cannot store snapshots: {self.snapshots}. "
                f"Legal: snapshots up to {self.sampling_steps}; or raise cycle_epochs, or lower explore."
            )

    @property
    def first_sampling(self) -> int:
        """The first step that samples; `steps` if there is none."""
        first = math.ceil(self.explore * self.steps)
        # explore * steps may be rounded up across a whole number: the definition is b >= explore
        return first - 1 if first > 0 and (first - 1) / self.steps >= self.explore else first

    @property
    def sampling_steps(self) -> int:
        """How many steps sample."""
        return self.steps - self.first_sampling

    def samples(self, t: int) -> bool:
        """Whether step t has noise and may be stored."""
        return t >= self.first_sampling

    def factor(self, t: int) -> float:
        """Learning rate of step t in units of the starting rate lr0, in (0, 1]."""
        falling = _cosine(t / self.steps)
        return max(falling, _cosine(self.explore)) if self.schedule == "held" and self.samples(t) else falling

    def stored(self) -> tuple[int, ...]:
        """The steps after which the state is stored, rising."""
        n, parts = self.sampling_steps, self.snapshots
        return tuple(self.first_sampling + (part + 1) * n // parts - 1 for part in range(parts))


def starting_rate(network: nn.Module, config: SamplingConfig) -> float:
    """lr0: as given, or `auto` for this network."""
    if config.lr == "auto":
        return AUTO_TRANSFORMER_RATE if has_layer_norm(network) else AUTO_RATE
    return config.lr


def _cosine(phase: float) -> float:
    return (math.cos(math.pi * phase) + 1) / 2
