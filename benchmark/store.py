"""All runs under one results folder, and what a plan's runs look like in it."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import ConfigError, CorruptFile, EnvironmentProblem, nearest
from benchmark.identity import RunSpec
from benchmark.plan import Plan
from benchmark.provenance import run_code_digest
from benchmark.runfolder import UNFINISHED, RunFolder, State, clock_of

MAX_ATTEMPTS = 10
"""A run that the machine interrupted so often is left alone until `retry`."""


@dataclass(frozen=True)
class Status:
    """A run's place in a plan. `name`: new, running, done, stale, skipped, excluded, or the state that the files
    show (failed, oom, diverged, timeout, killed, lost, corrupt). skipped: an optional package is missing, or a run
    that it needs has failed. `note` says more in a few words."""

    name: str
    state: State
    note: str = ""

    @property
    def to_do(self) -> bool:
        """Whether `run` takes it up: never started, or stopped by something other than its own code."""
        unfinished = self.state.name in UNFINISHED or (self.state.retriable and self.state.name != "ok")
        return self.name != "skipped" and unfinished and self.state.attempts < MAX_ATTEMPTS

    @property
    def given_up(self) -> bool:
        """Whether the machine has interrupted it so often that `run` leaves it alone."""
        return self.state.retriable and self.state.attempts >= MAX_ATTEMPTS


class Store:
    """The folder `results/`: run folders below `runs/`, leaderboards below `leaderboard/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        self._skew = 0.0  # the file server's clock minus this machine's, once `prepare` has measured it

    def folder(self, run_id: str) -> RunFolder:
        """A run's folder, which need not exist."""
        return RunFolder(self.runs / run_id)

    def ids(self) -> list[str]:
        """The ids of all runs on disk, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self.runs) if entry.is_dir() and entry.name[0] != ".")
        except (FileNotFoundError, NotADirectoryError):
            return []

    def find(self, patterns: Iterable[str]) -> list[RunFolder]:
        """The runs that ids, parts of ids or glob patterns name.

        Raises:
            ConfigError: a pattern names no run; holds the nearest id.
        """
        ids, found = self.ids(), dict[str, RunFolder]()
        for pattern in patterns:
            name = Path(pattern).name if os.sep in pattern else pattern
            hits = [run for run in ids if run == name] or [
                run for run in ids if name in run or fnmatch.fnmatchcase(run, name)
            ]
            if not hits:
                near = nearest(name, [run.rsplit("-", 1)[0] for run in ids])
                raise ConfigError(f"no run under {self.runs} matches '{pattern}'.{near}   (bnnbench status)")
            found.update({run: self.folder(run) for run in hits})
        return list(found.values())

    def prepare(self) -> None:
        """Make the folder for writing, and set this store's clock by the file server's.

        Raises:
            EnvironmentProblem: the folder cannot be made or written to.
        """
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentProblem(f"{self.runs} cannot be created ({error.strerror}). Choose --results.") from error
        self._skew = clock_of(self.runs) - time.time()

    def state(self, run_id: str) -> State:
        """What has become of a run, its age told by this store's clock."""
        return self.folder(run_id).state(time.time() + self._skew)

    def statuses(self, specs: Mapping[str, RunSpec]) -> dict[str, Status]:
        """The status of every run of a plan; `specs` is in plan order, needs first. Writes nothing."""
        existing = set(self.ids())
        result: dict[str, Status] = {}
        for run_id, spec in specs.items():
            state = self.state(run_id) if run_id in existing else State("new")
            result[run_id] = status_of(spec, state, result)
        return result

    def specs(self) -> Iterator[RunSpec]:
        """The specifications of all runs on disk; damaged ones are passed over (`status` names them)."""
        for run_id in self.ids():
            with contextlib.suppress(CorruptFile, FileNotFoundError):
                yield self.folder(run_id).spec()


def status_of(spec: RunSpec, state: State, earlier: Mapping[str, Status]) -> Status:
    """Name a run's status from its files and from the runs that it needs (`earlier`, already named)."""
    if state.name == "ok":
        if state.detail.get("code") != current_code(spec):
            missing = "one of its plugins is not loaded here (--plugin FILE)"
            return Status("stale", state, "the code has changed since" if current_code(spec) else missing)
        for need, used in state.detail.get("needs", {}).items():
            other = earlier.get(need)
            if other is not None and other.state.name == "ok" and other.state.detail["posterior"]["sha256"] != used:
                return Status("stale", state, f"{need} has another posterior since")
        return Status("done", state)
    if state.name != "running":
        for need in spec.needs:
            other = earlier.get(need)
            if other is not None and other.name not in ("done", "stale", "running") and not other.to_do:
                return Status("skipped", state, f"needs {need} ({other.name})")
    status = Status(state.name, state, _note(state))
    if status.given_up:
        return Status(state.name, state, f"{status.note} (left alone after {state.attempts} attempts)".strip())
    return status


def current_code(spec: RunSpec) -> str:
    """The digest of the code that would run `spec` now; empty when one of its plugins is not installed here."""
    try:
        return run_code_digest(spec.task.name, spec.network.name, spec.method.name)
    except Exception:  # a missing or broken plugin: its results stay readable, and count as stale
        return ""


def _note(state: State) -> str:
    message = str(state.detail.get("message", ""))
    return message.splitlines()[0] if message else ""


def count(statuses: Iterable[Status]) -> dict[str, int]:
    """How many runs have each status, most frequent first."""
    return dict(Counter(status.name for status in statuses).most_common())


def to_run(plan: Plan, statuses: Mapping[str, Status]) -> list[RunSpec]:
    """The runs that `run` would take up, in plan order."""
    return [spec for run_id, spec in plan.specs.items() if statuses[run_id].to_do]


def in_order_of_needs(specs: Iterable[RunSpec]) -> dict[str, RunSpec]:
    """Runs by id, every run after those of its needs that are among them."""
    by_id = {spec.id: spec for spec in specs}
    ordered: dict[str, RunSpec] = {}

    def visit(spec: RunSpec) -> None:
        if spec.id in ordered:
            return
        for need in spec.needs:
            if need in by_id:
                visit(by_id[need])
        ordered[spec.id] = spec

    for spec in by_id.values():
        visit(spec)
    return ordered
