"""Running one phase in a child process, and telling how it ended."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch imports both in the middle of its first seeded call: 1 s, in every child anew
import torch._inductor.config

from benchmark.allocator import keep_freed_memory
from benchmark.cost import peak_memory
from benchmark.errors import CorruptFile, EnvironmentProblem
from benchmark.files import read_json, write_json
from benchmark.identity import RunSpec
from benchmark.operation import STOP_EXIT, Operation
from benchmark.runfolder import RunFolder

POLL_SECONDS = 0.02
PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
NO_RECORD_EXIT = 74  # EX_IOERR: the phase's process could not write how it ended
SUPERSEDED_EXIT = 76
TIME_LIMIT = "time limit"
FIRST_BEAT_SECONDS = 0.5


@dataclass(frozen=True)
class Ending:
    """How a phase ended. record["status"]: done, or failed, oom, diverged, killed, timeout."""

    record: dict[str, Any]


def run_in_child(
    run: RunFolder,
    attempt: Path,
    phase: str,
    spec: RunSpec,
    operation: Operation,
    *,
    stop_requested: Callable[[], str | None],
    every_beat: Callable[[int | None], None],
    beat_seconds: float,
) -> Ending:
    """Fork, run `phase` in the child, watch it.

    stop_requested: returns the reason once the phase is to save and stop; the child is asked by SIGTERM and killed
        when it has not ended after the grace period.
    every_beat: called with the child's peak memory in bytes, every `beat_seconds`, and sooner at the beginning, so that
        little of a short attempt is lost from the account when it is killed.
    """
    record_path = attempt / f"{phase}.json"
    sys.stdout.flush()
    sys.stderr.flush()
    oom_kills = _oom_kills()
    parent = os.getpid()
    # A stop that comes before the child is ready for it waits until it is.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        child = os.fork()
        if child == 0:
            try:
                _child_main(run, attempt, phase, spec, operation, record_path, parent, unblocked)
            finally:
                os._exit(1)  # nothing that goes wrong in there may go on as a second supervisor
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    try:
        reason, status = _watch(child, operation, stop_requested, every_beat, beat_seconds)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # whatever helpers the method left behind
    try:
        record = read_json(record_path)
    except (FileNotFoundError, CorruptFile):
        record = _record_of_silent_death(phase, status, reason, oom=_oom_kills() > oom_kills)
    if record["status"] == "killed" and reason == TIME_LIMIT:
        # The user's own limit: `run` goes on with it when asked again, no launcher does so by itself.
        message = f"{record['message']} (time limit of {operation.time_limit_seconds:g} s)"
        record = {**record, "status": "timeout", "message": message, "retriable": False}
    return Ending(record)


def stopped_record(reason: str, message: str) -> dict[str, Any]:
    """The record of an attempt that was stopped on request."""
    if reason == TIME_LIMIT:
        return {"status": "timeout", "type": "Interrupted", "message": message, "retriable": False}
    return {"status": "killed", "type": "Interrupted", "message": message, "retriable": True}


def _watch(
    child: int,
    operation: Operation,
    stop_requested: Callable[[], str | None],
    every_beat: Callable[[int | None], None],
    beat_seconds: float,
) -> tuple[str | None, int]:
    """Wait for the child; (why it was asked to stop, or None; its wait status)."""
    reason: str | None = None
    asked = killed = False
    deadline = 0.0
    begun = time.monotonic()
    next_beat = begun + FIRST_BEAT_SECONDS
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return reason, status
        now = time.monotonic()
        if not asked and (reason := stop_requested()) is not None:
            asked, deadline = True, now + operation.grace_seconds
            os.kill(child, signal.SIGTERM)
        if asked and not killed and now > deadline:
            killed = True
            os.kill(child, signal.SIGKILL)
        if now >= next_beat:
            next_beat = now + min(beat_seconds, now - begun)
            every_beat(peak_memory(child))
        time.sleep(POLL_SECONDS)


def _record_of_silent_death(phase: str, status: int, reason: str | None, *, oom: bool) -> dict[str, Any]:
    """The record of a child that left none: it was killed, crashed, or left through `os._exit`."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name
        if reason is not None and number == signal.SIGTERM:
            return stopped_record(reason, f"stopped ({reason}) in phase '{phase}' before it was done")
        if reason is not None and number == signal.SIGKILL:
            message = f"stopped ({reason}) in phase '{phase}' and killed: it did not save within the grace period"
            return {"status": "killed", "type": name, "message": message, "retriable": True}
        if number == signal.SIGKILL:
            if oom:
                message = f"phase '{phase}' was killed by the kernel: out of memory"
                return {"status": "oom", "type": name, "message": message, "retriable": False}
            message = f"phase '{phase}' was killed by SIGKILL (the kernel's memory killer, or somebody's kill -9)"
            return {"status": "killed", "type": name, "message": message, "retriable": True}
        message = f"phase '{phase}' crashed with {name}"
        return {"status": "failed", "type": name, "message": message, "retriable": False}
    code = os.WEXITSTATUS(status)
    if code == NO_RECORD_EXIT:
        message = f"phase '{phase}' ended and could not write how: the disk is full or not writable. See the log."
        return {"status": "failed", "type": "EnvironmentProblem", "message": message, "retriable": True}
    if code == SUPERSEDED_EXIT:
        message = f"a later attempt took the run over during phase '{phase}'"
        return {"status": "killed", "type": "Superseded", "message": message, "retriable": True}
    message = f"phase '{phase}' left the process with exit status {code} and without a result"
    return {"status": "failed", "type": "SystemExit", "message": message, "retriable": False}


def _child_main(
    run: RunFolder,
    attempt: Path,
    phase: str,
    spec: RunSpec,
    operation: Operation,
    record_path: Path,
    parent: int,
    unblocked: set[int],
) -> None:
    """The child's whole life; never returns."""
    from benchmark import phases
    from benchmark.worker import describe

    stop = _Stop()
    code = 1
    started: dict[str, float] = {}
    try:
        enter_child(parent, stop if phase == "fit" else None, operation)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        device = device_of(operation)

        def before_write() -> None:
            if run.superseded(attempt):
                os._exit(SUPERSEDED_EXIT)  # taken for dead and replaced: leave everything to the successor

        def on_progress(values: dict[str, float]) -> None:
            with contextlib.suppress(EnvironmentProblem, OSError):
                write_json(attempt / "progress.json", values, durable=False)

        started["at"] = time.monotonic()
        if phase == "fit":
            phases.fit(run, spec, operation, device, stop.requested, before_write, on_progress)
            record: dict[str, Any] = {"status": "done", "fit_seconds": read_json(run.file("fit.json"))["fit_seconds"]}
        else:
            phases.evaluate(run, spec, operation, device, before_write)
            record = {"status": "done"}
        code = 0
    except BaseException as error:
        _lift_memory_limit()
        record = describe(error)
        if phase == "fit" and "at" in started:
            record["fit_seconds"] = time.monotonic() - started["at"]
        with contextlib.suppress(Exception):
            print(record["traceback"], file=sys.stderr)
        code = STOP_EXIT if record["status"] == "killed" else 1
    try:
        write_json(record_path, record)
    except BaseException as error:
        code = NO_RECORD_EXIT
        with contextlib.suppress(BaseException):
            print(error, file=sys.stderr)
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class _Stop:
    """Set by SIGTERM, read by checkpoints."""

    def __init__(self) -> None:
        self._flag = False

    def set(self, *_: object) -> None:
        self._flag = True

    def requested(self) -> bool:
        return self._flag


def enter_child(parent: int, stop: _Stop | None, operation: Operation) -> None:
    """Make a forked process one that lives no longer than its parent, with the run's limits and numeric settings.

    stop: None for a phase that saves nothing on its way; a stop ends it at once."""
    os.setsid()
    _die_with(parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL if stop is None else stop.set)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(file=2)  # the log, whatever this process has made of sys.stderr
    logging.basicConfig(stream=sys.stderr, format="%(name)s: %(levelname)s: %(message)s", force=True)
    if operation.memory_limit_gib is not None:
        limit, hard = int(operation.memory_limit_gib * 2**30), resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(operation.threads)
    keep_freed_memory()


def _lift_memory_limit() -> None:
    """Room to say that there was none."""
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, so that no orphan writes into a run taken over."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(STOP_EXIT)


def device_of(operation: Operation) -> torch.device:
    """The device that the settings ask for.

    Raises:
        EnvironmentProblem: this machine has none of that kind.
    """
    if operation.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if operation.device.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentProblem(f"device '{operation.device}' was asked for, and this machine has no usable GPU.")
    return torch.device(operation.device)


def _oom_kills() -> int:
    """How many processes of this control group the kernel has killed for memory."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as handle:
            for line in handle:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0
