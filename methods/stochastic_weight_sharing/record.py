"""What a fit remembers beside what it trains, and what of a state its training changes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmark import Fact
from methods.stochastic_weight_sharing.state import SharedState


class Record:
    """Facts that are known before the first step, and the seconds since, without interruptions. Part of checkpoints."""

    def __init__(self) -> None:
        self.facts: dict[str, Fact] = {}
        self._start = time.monotonic()

    def begin(self) -> None:
        """The first step of this process comes next."""
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training, as far as it got."""
        return time.monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        return {"facts": dict(self.facts), "seconds": self.seconds}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.facts = dict(saved["facts"])
        self._start = time.monotonic() - saved["seconds"]


class Trained:
    """What training changes of a state: no labels. For the copy of the best epoch."""

    def __init__(self, state: SharedState) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        return {"gaussians": self._state.gaussians.trained(), "points": self._state.points.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self._state.load_state_dict(saved)
