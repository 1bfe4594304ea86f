"""Saved states of a team: the first member decides and saves, all load the same and stop together."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.checkpoint import CheckpointFolder, PeriodicCheckpoints
from benchmark.team import Team


def checkpoints_of(
    team: Team,
    folder: Path,
    *,
    seconds: float,
    wrap: Callable[[Any], Any],
    unwrap: Callable[[Any], Any | None],
    stop_requested: Callable[[], bool],
    before_save: Callable[[], None],
) -> PeriodicCheckpoints:
    """As `PeriodicCheckpoints`. In a team every offer asks the first member whether it is to stop: by gloo, so that no
    GPU is waited for."""
    return PeriodicCheckpoints(
        CheckpointFolder(folder) if team.size == 1 else _Shared(folder, team),
        seconds=seconds if team.rank == 0 else math.inf,
        wrap=wrap,
        unwrap=unwrap,
        stop_requested=stop_requested if team.size == 1 else lambda: team.first_says(stop_requested()),
        before_save=before_save if team.rank == 0 else lambda: None,
    )


class _Shared(CheckpointFolder):
    """Read by all members, written by the first: the others hold the same state."""

    def __init__(self, folder: Path, team: Team) -> None:
        super().__init__(folder)
        self._team = team

    def save(self, tree: Any) -> Path:
        return super().save(tree) if self._team.rank == 0 else self.folder

    def load(self) -> Any | None:
        """Returns only when all have loaded, so that none of them saves before."""
        found = super().load()
        self._team.require_same("the saved state", "none" if found is None else " ".join(map(str, self._files())))
        return found
