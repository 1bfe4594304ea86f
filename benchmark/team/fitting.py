"""A method's `fit` as every member of a team runs it: the same problem and seeds, a context of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from benchmark.context import Context
from benchmark.contracts import Method
from benchmark.errors import BenchError, ConfigError, PluginError
from benchmark.files import write_json
from benchmark.identity import RunSpec
from benchmark.operation import Operation
from benchmark.problem import method_of, needed_runs, posteriors_of_needs, problem_of
from benchmark.registry import METHODS
from benchmark.runfolder import RunFolder
from benchmark.team import ALONE, Team


class Lent:
    """What a member is given to learn from.

    lineage: needed run -> digest of its posterior as of now: what this fit starts from, whatever becomes of them later.
    """

    def __init__(self, run: RunFolder, spec: RunSpec, operation: Operation, device: torch.device, team: Team) -> None:
        self._run, self._spec, self._operation, self._device, self._team = run, spec, operation, device, team
        self.lineage = posteriors_of_needs(run, spec)
        self._needed = needed_runs(run, spec, device)
        self.problem = problem_of(spec, self._needed, device)

    def context(
        self,
        stop_requested: Callable[[], bool] = lambda: False,
        before_save: Callable[[], None] = lambda: None,
        on_progress: Callable[[dict[str, float]], None] = lambda _: None,
    ) -> Context:
        """The member's `RunContext`; the arguments matter for the first member alone."""
        return Context(
            self._run.path,
            self._spec.components,
            lineage=self.lineage,
            device=self._device,
            needed=self._needed,
            micro_batch=self._operation.micro_batch,
            team=self._team,
            checkpoint_seconds=self._operation.checkpoint_seconds,
            stop_requested=stop_requested,
            before_save=before_save,
            on_progress=on_progress,
        )


def fit_along(run: RunFolder, spec: RunSpec, operation: Operation, device: torch.device, team: Team) -> None:
    """The whole of a fit in a member that is not the first. Writes nothing, and its posterior is not kept."""
    method, config = method_of(spec)
    lent = Lent(run, spec, operation, device, team)
    method.fit(lent.problem, lent.context(), config)


@contextmanager
def team_of(
    run: RunFolder, method: Method, operation: Operation, device: torch.device, before_write: Callable[[], None]
) -> Iterator[tuple[Team, torch.device]]:
    """The team that the settings ask for, with the device of this process, its first member. On one device nothing is
    imported, started or changed.

    Raises:
        ConfigError: several devices for a method that one process runs; names the methods that can.
    """
    if operation.devices == 1:
        yield ALONE, device
        return
    if not method.parallel:
        raise ConfigError(
            f"devices: {operation.devices} was asked for, and method '{method.name}' trains on one.\n"
            f"  Methods that can train on several: {', '.join(_parallel_methods())}. Run the others with devices: 1."
        )
    from benchmark.team.leader import led

    def fail(error: BaseException) -> None:
        from benchmark.worker import describe

        before_write()
        with suppress(OSError, BenchError):
            write_json(run.attempts()[-1] / "fit.json", describe(error))
        os._exit(1)

    with led(run.path, operation.devices, device, fail) as (team, own):
        yield team, own


def _parallel_methods() -> list[str]:
    found = []
    for name in METHODS.names():
        with suppress(PluginError):  # a broken plugin is reported where it is used
            found += [name] if METHODS.get(name).parallel else []
    return found
