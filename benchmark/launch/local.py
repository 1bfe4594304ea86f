"""A bounded queue of worker processes on this machine.

Workers are forked from a server process that has imported torch once, so that a run starts in milliseconds; each lives
in a session of its own, so that Ctrl-C reaches the launcher alone, which asks the workers to save. When the launcher
dies, its workers finish their runs; another launcher sees them as running and leaves them alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from pydantic import Field

from benchmark.errors import BenchError, EnvironmentProblem
from benchmark.identity import RunSpec
from benchmark.launch.launcher import Launcher, Watcher, devices_of
from benchmark.launch.signals import stop_signals
from benchmark.operation import BUSY_EXIT, MOST_LOADERS, Operation
from benchmark.registry import METHODS, NETWORKS, TASKS
from benchmark.runfolder import State
from benchmark.store import Store

TICK_SECONDS = 0.2
ELSEWHERE_SECONDS = 1.0
PRELOAD = "benchmark.launch.warm"


class LocalConfig(Operation):
    """Settings of the local queue, beside the operational ones."""

    workers: int | None = Field(
        None, ge=1, description="runs at a time; default: one per `devices` GPUs, else per core"
    )
    retries: int = Field(1, ge=0, description="how often a run that the machine killed is started again at once")


class Local(Launcher):
    """Runs side by side on this machine, each on `threads` cores or on one GPU."""

    name = "local"
    Config = LocalConfig

    def launch(self, specs: Sequence[RunSpec], store: Store, config: Any, watcher: Watcher) -> None:
        queue = _Queue(list(specs), store, config, watcher)
        with _interruptible(queue):
            try:
                queue.run()
            except BaseException:
                queue.stop_workers()  # nobody is left to watch them
                raise
        if queue.stops:
            raise KeyboardInterrupt


@dataclass
class _Queue:
    waiting: list[RunSpec]
    store: Store
    config: LocalConfig
    watcher: Watcher
    stops: int = 0
    active: dict[str, ForkServerProcess] = field(default_factory=dict)
    _slots: dict[str, int] = field(default_factory=dict)
    _ok: set[str] = field(default_factory=set)
    _starts: Counter[str] = field(default_factory=Counter)
    _seen: dict[str, int] = field(default_factory=dict)
    _obeyed: int = 0
    _elsewhere: dict[str, float] = field(default_factory=dict)
    _specs: dict[str, RunSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.config.device.startswith("cuda") and not gpu_count():
            raise EnvironmentProblem(f"device '{self.config.device}' was asked for, and this machine shows no GPU.")
        self._gpus = gpu_count() if self.config.device == "auto" else 0
        if self._gpus and self.config.devices > self._gpus:
            raise EnvironmentProblem(
                f"devices: {self.config.devices} was asked for, and this machine shows {self._gpus} GPUs."
            )
        each = self.config.devices
        self._workers = self.config.workers or self._gpus // each or max(1, cores() // (self.config.threads * each))
        self._specs = {spec.id: spec for spec in self.waiting}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([PRELOAD, *heavy_modules(self.waiting)])
        self._seen = {spec.id: len(self.store.folder(spec.id).attempts()) for spec in self.waiting}

    def run(self) -> None:
        self._warm_up()
        while (self.waiting and not self.stops) or self.active:
            self._obey()
            if not self.stops:
                self._start_what_can()
            self.watcher.tick(list(self.active))
            wait([process.sentinel for process in self.active.values()], timeout=TICK_SECONDS)
            for run_id in [name for name, process in self.active.items() if not process.is_alive()]:
                self._reap(run_id)

    def _warm_up(self) -> None:
        """Start the server and wait until it has imported what workers need: a stop until then starts no run."""
        number, each = len(self.waiting), "" if self._workers == 1 else f", up to {self._workers} at a time"
        self.watcher.note(f"{number} {'run' if number == 1 else 'runs'} to do{each}; loading torch")
        process = self._context.Process(target=_nothing)
        process.start()
        process.join()
        process.close()

    def stop(self) -> None:
        """Ask for a stop; the second time, for a sudden one. Called by a signal handler, so it only takes a note."""
        self.stops += 1

    def _obey(self) -> None:
        if self.stops == self._obeyed:
            return
        self._obeyed = self.stops
        if self.stops == 1:
            self.watcher.note("stopping: runs are asked to save (again to kill them at once)")
        else:
            self.watcher.note("killing runs")
        self.stop_workers()

    def stop_workers(self) -> None:
        """Ask every worker to save and stop; kill them when a stop was asked for twice."""
        number = signal.SIGTERM if self.stops < 2 else signal.SIGKILL
        for process in self.active.values():
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _start_what_can(self) -> None:
        for spec in list(self.waiting):
            if len(self.active) >= self._workers or self.stops:
                return
            verdict = self._verdict(spec)
            if verdict == "wait":
                continue
            self.waiting.remove(spec)
            if verdict == "start":
                self._start(spec)
            elif verdict == "ended":
                self._ended(spec.id, self.store.state(spec.id))
            else:
                self.watcher.skipped(spec.id, verdict)

    def _verdict(self, spec: RunSpec) -> str:
        """ "start", "wait", "ended" (elsewhere), or why the run cannot be started at all."""
        if spec.id in self._elsewhere:
            if self._elsewhere[spec.id] > time.monotonic():
                return "wait"
            self._elsewhere[spec.id] = time.monotonic() + ELSEWHERE_SECONDS
            state = self.store.state(spec.id)
            if state.name == "running":
                return "wait"
            del self._elsewhere[spec.id]
            if state.name != "new" and not state.retriable:
                return "ended"
            self._seen[spec.id] = len(self.store.folder(spec.id).attempts())
        ours = {waiting.id for waiting in self.waiting} | set(self.active)
        for need in spec.needs:
            if need in self._ok:
                continue
            if need in ours:
                return "wait"
            state = self.store.state(need)
            if state.name == "running":
                return "wait"
            if state.name != "ok":
                return f"needs {need} ({state.name})"
            self._ok.add(need)
        return "start"

    def _start(self, spec: RunSpec) -> None:
        run = self.store.folder(spec.id)
        slot = min(set(range(self._workers)) - set(self._slots.values()))
        settings = self._operation() | {"device": self._device(slot), "devices": devices_of(spec, self.config)}
        try:
            Operation(**settings).hand_over(run)
        except (OSError, BenchError) as error:  # this run's folder cannot be used; the other runs can
            self.watcher.note(f"{spec.id} could not be started: {error}")
            self.watcher.ended(spec.id, self.store.state(spec.id))
            return
        process = self._context.Process(target=_work, args=(str(run.path), self._seen[spec.id]), name=spec.id)
        process.start()
        self._slots[spec.id] = slot
        self._starts[spec.id] += 1
        self.active[spec.id] = process
        self.watcher.started(spec.id)

    def _device(self, slot: int) -> str:
        """Of several devices the first; runs that train on several have consecutive ones."""
        if not self._gpus:
            return self.config.device
        places = self._gpus // self.config.devices
        return f"cuda:{slot % places * self.config.devices}"

    def _operation(self) -> dict[str, Any]:
        settings = {name: getattr(self.config, name) for name in Operation.model_fields}
        if settings["loaders"] is None:
            settings["loaders"] = fair_loaders(cores(), self._workers, self.config.threads)
        return settings

    def _reap(self, run_id: str) -> None:
        process = self.active.pop(run_id)
        process.join()
        code = process.exitcode
        process.close()
        del self._slots[run_id]
        state = self.store.state(run_id)
        if state.name == "running" or code == BUSY_EXIT:  # another launcher holds or held it: look again later
            self._elsewhere[run_id] = 0.0
            self._starts[run_id] -= 1
            self.waiting.append(self._specs[run_id])
            return
        self._seen[run_id] = len(self.store.folder(run_id).attempts())
        if state.retriable and not self.stops and self._starts[run_id] <= self.config.retries:
            self.watcher.note(f"{run_id} was interrupted ({state.detail.get('message', state.name)}); started again")
            self.waiting.insert(0, self._specs[run_id])
            return
        if state.name == "new":
            self.watcher.note(f"{run_id} could not be started: its worker ended with exit status {code}")
        self._ended(run_id, state)

    def _ended(self, run_id: str, state: State) -> None:
        if state.name == "ok":
            self._ok.add(run_id)
        self.watcher.ended(run_id, state)


@contextlib.contextmanager
def _interruptible(queue: _Queue) -> Iterator[None]:
    def on_signal(*_: object) -> None:
        queue.stop()

    with stop_signals(on_signal):
        yield


def _nothing() -> None:
    """A worker that only shows that workers can start."""


def _work(folder: str, seen: int) -> None:
    """The worker process. Imports come after the new session, so that a signal never hits a half-started worker."""
    os.setsid()
    from benchmark.worker import work

    try:
        code = work(folder, seen)
    except (OSError, BenchError) as error:  # before an attempt existed that could hold it
        print(f"bnnbench: {folder}: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


def heavy_modules(specs: Sequence[RunSpec]) -> list[str]:
    """What the plugins of the runs declare as `preload`: modules worth importing once per launch, not once per run."""
    plugins: dict[tuple[str, str], Any] = {}
    for spec in specs:
        with contextlib.suppress(BenchError):  # a plugin that cannot be loaded fails in its own runs
            plugins["task", spec.task.name] = TASKS.get(spec.task.name)
            plugins["network", spec.network.name] = NETWORKS.family(spec.network.name)[1]
            plugins["method", spec.method.name] = METHODS.get(spec.method.name)
    return list(dict.fromkeys(module for plugin in plugins.values() for module in plugin.preload))


def fair_loaders(cores: int, workers: int, threads: int) -> int:
    """Processes of one run that read data, so that all runs together fit the cores; 0 where each has one core."""
    return min(max(0, cores // workers - threads), MOST_LOADERS)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_count() -> int:
    """NVIDIA GPUs that this process may use, counted without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(glob("/proc/driver/nvidia/gpus/*"))
