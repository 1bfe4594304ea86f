"""One run after another, supervised by this very process: the simplest launcher, and a reference for the others."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmark.identity import RunSpec
from benchmark.launch.launcher import Launcher, Watcher, devices_of
from benchmark.launch.signals import stop_signals
from benchmark.operation import BUSY_EXIT, Operation
from benchmark.runfolder import State
from benchmark.store import Store

POLL_SECONDS = 0.2


class Inline(Launcher):
    """Runs in plan order, in the foreground, one at a time."""

    name = "inline"
    Config = Operation

    def launch(self, specs: Sequence[RunSpec], store: Store, config: Any, watcher: Watcher) -> None:
        stopped: list[int] = []
        with _interruptible(stopped, watcher):
            for spec in specs:
                missing = _first_missing(spec, store, lambda: bool(stopped))
                if stopped:
                    break
                if missing is not None:
                    watcher.skipped(spec.id, f"needs {missing[0]} ({missing[1].name})")
                    continue
                watcher.started(spec.id)
                watcher.ended(spec.id, _execute(spec, store, config, watcher, lambda: bool(stopped)))
        if stopped:
            raise KeyboardInterrupt


def _execute(spec: RunSpec, store: Store, config: Operation, watcher: Watcher, stopped: Callable[[], bool]) -> State:
    """Work on the run, and wait for it where another launcher holds it; how it stands then."""
    from benchmark.worker import work

    run = store.folder(spec.id)
    seen = len(run.attempts())
    while True:
        try:
            config.model_copy(update={"devices": devices_of(spec, config)}).hand_over(run)
            code = work(str(run.path), seen)
        except Exception as error:  # this run's folder cannot be used; the other runs can
            watcher.note(f"{spec.id} could not be started: {error}")
            return store.state(spec.id)
        state = store.state(spec.id)
        if code != BUSY_EXIT:
            return state
        state = _settled(spec.id, store, stopped)
        if stopped() or not (state.name == "new" or state.retriable):
            return state
        seen = len(run.attempts())


def _first_missing(spec: RunSpec, store: Store, stopped: Callable[[], bool]) -> tuple[str, State] | None:
    for need in spec.needs:
        state = _settled(need, store, stopped)
        if state.name != "ok":
            return need, state
    return None


def _settled(run_id: str, store: Store, stopped: Callable[[], bool]) -> State:
    """The run's state once no process works on it any more."""
    while (state := store.state(run_id)).name == "running" and not stopped():
        time.sleep(POLL_SECONDS)
    return state


@contextlib.contextmanager
def _interruptible(stopped: list[int], watcher: Watcher) -> Iterator[None]:
    """Collect stop requests; the worker, whose handler comes first, lets the run save. The second one ends it."""

    def on_signal(number: int, _frame: object) -> None:
        stopped.append(number)
        if len(stopped) > 1:
            raise KeyboardInterrupt

    with stop_signals(on_signal):
        yield
