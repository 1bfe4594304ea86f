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

from benchmark.identity import RunSpec
from benchmark.launch.launcher import Launcher, Watcher
from benchmark.operation import Operation
from benchmark.store import Store

TICK_SECONDS = 0.2
ELSEWHERE_SECONDS = 1.0
PRELOAD = ["benchmark.worker", "benchmark.phases", "timm"]


class LocalConfig(Operation):
    """Settings of the local queue, beside the operational ones."""

    workers: int | None = Field(None, ge=1, description="runs at a time; default: one per GPU, else one per core")
    retries: int = Field(1, ge=0, description="how often a run that the machine killed is started again at once")


class Local(Launcher):
    """Runs side by side on this machine, each on `threads` cores or on one GPU."""

    name = "local"
    Config = LocalConfig

    def launch(self, specs: Sequence[RunSpec], store: Store, config: Any, watcher: Watcher) -> None:
        queue = _Queue(list(specs), store, config, watcher)
        with _interruptible(queue):
            queue.run()
        if queue.stopping:
            raise KeyboardInterrupt


@dataclass
class _Queue:
    waiting: list[RunSpec]
    store: Store
    config: LocalConfig
    watcher: Watcher
    stopping: int = 0
    active: dict[str, ForkServerProcess] = field(default_factory=dict)
    _slots: dict[str, int] = field(default_factory=dict)
    _ok: set[str] = field(default_factory=set)
    _starts: Counter[str] = field(default_factory=Counter)
    _elsewhere: dict[str, float] = field(default_factory=dict)
    _specs: dict[str, RunSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._gpus = gpu_count() if self.config.device == "auto" else 0
        self._workers = self.config.workers or self._gpus or max(1, cores() // self.config.threads)
        self._specs = {spec.id: spec for spec in self.waiting}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def run(self) -> None:
        while (self.waiting and not self.stopping) or self.active:
            if not self.stopping:
                self._start_what_can()
            self.watcher.tick(list(self.active))
            wait([process.sentinel for process in self.active.values()], timeout=TICK_SECONDS)
            for run_id in [name for name, process in self.active.items() if not process.is_alive()]:
                self._reap(run_id)

    def stop(self) -> None:
        """Ask every worker to save and stop; the second time, kill them."""
        self.stopping += 1
        number = signal.SIGTERM if self.stopping == 1 else signal.SIGKILL
        for process in self.active.values():
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _start_what_can(self) -> None:
        for spec in list(self.waiting):
            if len(self.active) >= self._workers:
                return
            verdict = self._verdict(spec)
            if verdict == "wait":
                continue
            self.waiting.remove(spec)
            if verdict == "start":
                self._start(spec)
            else:
                self.watcher.skipped(spec.id, verdict)

    def _verdict(self, spec: RunSpec) -> str:
        """ "start", "wait", or why the run cannot be started at all."""
        if self._elsewhere.get(spec.id, 0.0) > time.monotonic():
            return "wait"
        ours = {waiting.id for waiting in self.waiting} | set(self.active)
        for need in spec.needs:
            if need in self._ok:
                continue
            if need in ours:
                return "wait"
            state = self.store.folder(need).state()
            if state.name == "running":
                return "wait"
            if state.name != "ok":
                return f"needs {need} ({state.name})"
            self._ok.add(need)
        return "start"

    def _start(self, spec: RunSpec) -> None:
        run = self.store.folder(spec.id)
        slot = min(set(range(self._workers)) - set(self._slots.values()))
        device = f"cuda:{slot % self._gpus}" if self._gpus else self.config.device
        Operation(**{**self._operation(), "device": device}).hand_over(run)
        process = self._context.Process(target=_work, args=(str(run.path),), name=spec.id)
        process.start()
        self._slots[spec.id] = slot
        self._starts[spec.id] += 1
        self.active[spec.id] = process
        self.watcher.started(spec.id)

    def _operation(self) -> dict[str, Any]:
        return {name: getattr(self.config, name) for name in Operation.model_fields}

    def _reap(self, run_id: str) -> None:
        process = self.active.pop(run_id)
        process.join()
        process.close()
        del self._slots[run_id]
        state = self.store.folder(run_id).state()
        if state.name == "running":  # another launcher holds it: look again later
            self._elsewhere[run_id] = time.monotonic() + ELSEWHERE_SECONDS
            self._starts[run_id] -= 1
            self.waiting.append(self._specs[run_id])
            return
        if state.name == "ok":
            self._ok.add(run_id)
        elif state.retriable and not self.stopping and self._starts[run_id] <= self.config.retries:
            self.watcher.note(f"{run_id} was interrupted ({state.detail.get('message', state.name)}); started again")
            self.waiting.insert(0, self._specs[run_id])
            return
        self.watcher.ended(run_id, state)


@contextlib.contextmanager
def _interruptible(queue: _Queue) -> Iterator[None]:
    def on_signal(*_: object) -> None:
        queue.stop()
        queue.watcher.note(
            "stopping: runs are asked to save (again to kill them at once)" if queue.stopping == 1 else "killing runs"
        )

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _work(folder: str) -> None:
    """The worker process. Imports come after the new session, so that a signal never hits a half-started worker."""
    os.setsid()
    from benchmark.worker import work

    sys.exit(work(folder))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_count() -> int:
    """NVIDIA GPUs that this process may use, counted without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(glob("/proc/driver/nvidia/gpus/*"))
