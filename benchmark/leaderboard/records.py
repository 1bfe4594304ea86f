"""From run folders to records: one pass over the files of a study's runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import CorruptFile
from benchmark.files import canonical_json
from benchmark.identity import Part, RunSpec
from benchmark.leaderboard.pause import without_garbage_collection
from benchmark.runfolder import FIGURES, RESULT_SCHEMA, State
from benchmark.store import Status, Store

FINISHED = ("done", "stale")


@dataclass(frozen=True)
class Record:
    """One run as the leaderboard sees it. `status` is the run's own word for itself: done, stale, failed, oom, new, ...

    base_seconds: training seconds of all runs that this one starts from, directly or not, each once; None when one of
        them has no readable result.
    lineage: digest of how those runs were made, seeds left out, so that two rows whose base networks differ are not
        taken for one; empty without needs, None when a needed run cannot be read.
    detail: what the last attempt left behind when there is no result: phase, type, message, last_lines.
    figures: the folder of the figures that the method made of its fit, which need not exist; None: none can.
    compared_with: the run of which `agreement` and `tv` among the metrics tell (`leaderboard.reference`).
    """

    spec: RunSpec
    status: str
    note: str = ""
    result: Mapping[str, Any] | None = None
    base_seconds: float | None = 0.0
    lineage: str | None = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    figures: Path | None = None
    compared_with: Record | None = None

    @property
    def run(self) -> str:
        """The run's id."""
        return self.spec.id

    @property
    def finished(self) -> bool:
        """Whether there is a result to show, of today's code or of earlier code."""
        return self.result is not None

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Metric name -> JSON of its value; empty without a result."""
        return self.result["metrics"] if self.result is not None else {}

    @property
    def draws(self) -> int | None:
        """S, forward passes of one prediction."""
        return self.result["draws"] if self.result is not None else None

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the posterior says of itself."""
        return self.result["facts"] if self.result is not None else {}

    @property
    def ranked(self) -> bool:
        """Whether its numbers compete; those of a control do not."""
        return self.facts.get("ranked") is not False

    @property
    def code(self) -> str | None:
        """Digest of the code that made the result."""
        return self.result.get("code") if self.result is not None else None


@without_garbage_collection
def collect(store: Store, specs: Mapping[str, RunSpec], statuses: Mapping[str, Status] | None = None) -> list[Record]:
    """A record of every run of `specs` (id -> specification), in that order.

    `statuses` are what `Store.statuses` has read already, for these runs and perhaps more; without them it is called
    here. Needed runs that are not in `specs` are looked up in the store. A damaged result becomes status `corrupt`
    with its message; nothing else is lost by it.
    """
    named = dict(store.statuses(specs) if statuses is None else statuses)
    missing = {run_id: spec for run_id, spec in specs.items() if run_id not in named}
    if missing:
        named |= store.statuses(missing)
    needs = _Needs(store, specs, named)
    return [_record(spec, named[run_id], needs) for run_id, spec in specs.items()]


def _record(spec: RunSpec, status: Status, needs: _Needs) -> Record:
    base, lineage = needs.base_seconds(spec), needs.lineage(spec)
    state = status.state
    if state.name != "ok":
        return Record(spec, status.name, status.note, None, base, lineage, state.detail)
    problem = unreadable(state.detail)
    if problem:
        return Record(spec, "corrupt", problem, None, base, lineage, {"message": problem})
    figures = needs.store.folder(spec.id).file(FIGURES)
    return Record(spec, status.name, status.note, state.detail, base, lineage, figures=figures)


def unreadable(result: Mapping[str, Any]) -> str:
    """Why a whole result cannot be shown, or nothing: it is of another schema or lacks a part."""
    if result.get("schema") != RESULT_SCHEMA:
        return f"result.json has schema {result.get('schema')}; this version reads schema {RESULT_SCHEMA}"
    lacking = [name for name in ("metrics", "facts", "draws") if name not in result]
    return f"result.json has no '{lacking[0]}'; make it anew: bnnbench rescore" if lacking else ""


@dataclass
class _Needs:
    """What the runs that others start from have cost and how they were made; each is read at most once."""

    store: Store
    specs: Mapping[str, RunSpec]
    statuses: Mapping[str, Status]
    _results: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    _specs: dict[str, RunSpec | None] = field(default_factory=dict)
    _behind: dict[str, frozenset[str] | None] = field(default_factory=dict)
    _lineages: dict[str, str | None] = field(default_factory=dict)

    def base_seconds(self, spec: RunSpec) -> float | None:
        """Training seconds of all needs, their own needs included, every run once; None when one is unknown."""
        ids = self._runs_behind(spec)
        if ids is None:
            return None
        seconds = [self._seconds(run_id) for run_id in sorted(ids)]
        known = [value for value in seconds if value is not None]
        return float(sum(known)) if len(known) == len(seconds) else None

    def lineage(self, spec: RunSpec) -> str | None:
        """A digest of the methods and settings behind the needs, in their order; the same for every seed."""
        if not spec.needs:
            return ""
        made = [self._made(run_id) for run_id in spec.needs]
        known = [text for text in made if text is not None]
        return _digest("\n".join(known)) if len(known) == len(made) else None

    def _made(self, run_id: str) -> str | None:
        if run_id not in self._lineages:
            spec = self._spec(run_id)
            before = self.lineage(spec) if spec is not None else None
            self._lineages[run_id] = None if spec is None or before is None else f"{part_text(spec.method)} {before}"
        return self._lineages[run_id]

    def _runs_behind(self, spec: RunSpec) -> frozenset[str] | None:
        found: set[str] = set()
        for run_id in spec.needs:
            if run_id not in self._behind:
                needed = self._spec(run_id)
                behind = self._runs_behind(needed) if needed is not None else None
                self._behind[run_id] = None if behind is None else behind | {run_id}
            runs = self._behind[run_id]
            if runs is None:
                return None
            found |= runs
        return frozenset(found)

    def _seconds(self, run_id: str) -> float | None:
        entry = (self._result(run_id) or {}).get("metrics", {}).get("train_seconds", {})
        value: float | None = entry.get("value")
        return value

    def _result(self, run_id: str) -> Mapping[str, Any] | None:
        if run_id not in self._results:
            status = self.statuses.get(run_id)
            state = status.state if status is not None else self._read(run_id)
            self._results[run_id] = state.detail if state.name == "ok" else None
        return self._results[run_id]

    def _read(self, run_id: str) -> State:
        try:
            result = self.store.folder(run_id).result()
        except CorruptFile:
            return State("corrupt")
        return State("new") if result is None else State("ok", detail=result)

    def _spec(self, run_id: str) -> RunSpec | None:
        if run_id not in self._specs:
            spec = self.specs.get(run_id)
            if spec is None:
                try:
                    spec = self.store.folder(run_id).spec()
                except (FileNotFoundError, CorruptFile):
                    spec = None
            self._specs[run_id] = spec
        return self._specs[run_id]


def part_text(part: Part) -> str:
    """One text per name, version and settings, whatever their order."""
    return canonical_json([part.name, part.version, part.config])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
