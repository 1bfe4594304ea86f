"""What a launcher is. The Slurm launcher implements the same interface from outside."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from benchmark.errors import BenchError
from benchmark.identity import RunSpec
from benchmark.operation import Operation
from benchmark.registry import METHODS, Registry
from benchmark.runfolder import State
from benchmark.store import Store


class Watcher(Protocol):
    """What a launcher tells while it works."""

    def started(self, run_id: str) -> None:
        """The run's worker was started or submitted."""

    def ended(self, run_id: str, state: State) -> None:
        """The run's worker has ended; `state` is what it left on disk."""

    def skipped(self, run_id: str, reason: str) -> None:
        """The run will not be started: a run that it needs has failed."""

    def tick(self, running: Sequence[str]) -> None:
        """Called several times a second while workers run."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Launcher(ABC):
    """Gets runs executed. `Config` extends the operational settings by the launcher's own."""

    name: ClassVar[str]
    Config: ClassVar[type[Operation]] = Operation

    @abstractmethod
    def launch(self, specs: Sequence[RunSpec], store: Store, config: Any, watcher: Watcher) -> None:
        """Execute or submit `specs`, which are in an order that respects their needs; their folders exist.

        A run that fails never keeps the others from running. KeyboardInterrupt: workers are asked to save, and the
        exception is passed on once they have ended.
        """


def devices_of(spec: RunSpec, operation: Operation) -> int:
    """The devices that the run trains on: those that were asked for, where its method can use several, else one."""
    with contextlib.suppress(BenchError):  # a plugin that cannot be loaded fails in its own runs
        return operation.devices if METHODS.get(spec.method.name).parallel else 1
    return 1


LAUNCHERS: Registry[Launcher] = Registry("launcher", "bnnbench.launchers", "benchmark.launch.launcher:Launcher")
