"""Watching a launch: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.cli.matrix import console, style_of
from benchmark.errors import CorruptFile
from benchmark.files import read_json
from benchmark.runfolder import State
from benchmark.store import Store


class Watch:
    """A `Watcher` for people. Use as a context manager around `launch`."""

    def __init__(self, store: Store, total: int, *, quiet: bool = False) -> None:
        self._store, self._total = store, total
        self._console = Console(stderr=True, quiet=True) if quiet else _own_console()
        self._begun: dict[str, float] = {}
        self._launched = time.monotonic()
        self._running: Sequence[str] = ()
        self.finished = 0
        self.failed: list[tuple[str, str]] = []
        self._live: Live | None = None

    def __enter__(self) -> Watch:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, run_id: str) -> None:
        self._begun[run_id] = time.monotonic()

    def ended(self, run_id: str, state: State) -> None:
        self.finished += 1
        seconds = time.monotonic() - self._begun.get(run_id, time.monotonic())
        if state.name != "ok":
            self.failed.append((run_id, state.name))
        self._line("done" if state.name == "ok" else state.name, run_id, f"{seconds:6.1f} s  {_summary(state)}")

    def skipped(self, run_id: str, reason: str) -> None:
        self.finished += 1
        self.failed.append((run_id, "skipped"))
        self._line("skipped", run_id, reason)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def tick(self, running: Sequence[str]) -> None:
        self._running = running

    def _line(self, status: str, run_id: str, text: str) -> None:
        line = Text(f"{self.finished:>{len(str(self._total))}}/{self._total}  ")
        line.append(f"{status:<8}", style=style_of(status))
        line.append(f"  {run_id}  {text}")
        self._console.print(line, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for run_id in self._running:
            table.add_row("[cyan]running[/]", run_id, self._progress(run_id))
        table.add_row("", f"{self.finished} of {self._total} runs ended", self._time_left())
        return table

    def _progress(self, run_id: str) -> str:
        seconds = time.monotonic() - self._begun.get(run_id, time.monotonic())
        values = progress_of(self._store, run_id)
        if not values:
            return f"{seconds:5.0f} s"
        share = values["done"] / max(values["total"], 1)
        left = seconds * (1 - share) / share if share > 0 else float("nan")
        rate = values["done"] / max(seconds, 1e-9)
        return f"{seconds:5.0f} s  {100 * share:3.0f} %  {rate:.1f} steps/s  {left:.0f} s left"

    def _time_left(self) -> str:
        if not self.finished:
            return ""
        rate = self.finished / (time.monotonic() - self._launched)
        return f"about {(self._total - self.finished) / rate:.0f} s left"


def _own_console() -> Console:
    """A console with a descriptor of its own: a worker in this very process sends standard output to its log."""
    try:
        file = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding, errors="replace", buffering=1)
    except (OSError, ValueError, AttributeError):  # captured output
        return console()
    return console(file)


def progress_of(store: Store, run_id: str) -> dict[str, Any]:
    """The progress that the run's newest attempt last reported; empty when there is none."""
    attempts = store.folder(run_id).attempts()
    if not attempts:
        return {}
    try:
        values: dict[str, Any] = read_json(attempts[-1] / "progress.json")
    except (FileNotFoundError, CorruptFile):
        return {}
    return values


def _summary(state: State) -> str:
    if state.name != "ok":
        return str(state.detail.get("message", "")).splitlines()[0] if state.detail.get("message") else ""
    metrics = state.detail["metrics"]
    values = {name: metrics.get(name, {}).get("value") for name in ("accuracy", "nll", "ece15")}
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
