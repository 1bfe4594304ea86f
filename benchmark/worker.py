"""One run from specification to result: the whole life of a run, in order.

    claim -> attempt n -> [fit] -> posterior.bin -> [evaluate] -> predictions.npz -> score -> result.json

The worker is a thin parent that owns signals, heartbeat and outcome; phases in brackets run in a child process each,
so that whatever a method does (raise, exit, exhaust memory, crash the interpreter) ends as a record on disk. A phase
whose product is already there is not run again.

Started by a launcher with one string, the run's folder: `work(folder)`, or `python -m benchmark.worker FOLDER`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.child import TIME_LIMIT, run_in_child, stopped_record
from benchmark.errors import BenchError, ConfigError, CorruptBitstream, CorruptFile, PredictionError
from benchmark.files import write_json
from benchmark.identity import RunSpec
from benchmark.operation import BUSY_EXIT, Operation
from benchmark.problem import MissingNeedError
from benchmark.provenance import environment, run_code_digest
from benchmark.publish import check_evaluated, check_fitted, publish
from benchmark.registry import load_plugin_file
from benchmark.runfolder import HEARTBEAT_SECONDS, RunFolder, abandon, write_heartbeat

LAST_LINES = 20


def work(folder: str, seen: int | None = None) -> int:
    """Run the run in `folder` to its end, from wherever earlier attempts left it.

    seen: how many attempts there were when the caller decided so; more by now means that somebody else ran it.
    Side effects: `attempts/<n>/`, the products of the phases, and last `result.json` or `attempts/<n>/outcome.json`.
    Returns the exit status: 0 result published, 1 a failure is recorded, 3 another process holds the run.
    """
    run = RunFolder(Path(folder).absolute())  # whatever directory a method changes to
    if not run.path.is_dir():
        raise ConfigError(f"{run.path} is not the folder of a run.")
    attempt = run.claim(seen)
    if attempt is None:
        return BUSY_EXIT
    supervisor = _Supervisor(run, attempt)
    try:
        with _logged_to(attempt / "log.txt"), supervisor, contextlib.ExitStack() as lent:
            try:
                operation, spec = Operation.of(run), run.spec()
                lent.enter_context(operation.in_environment())
                for plugin in operation.plugins:
                    load_plugin_file(plugin)
                write_json(attempt / "env.json", _record_of(spec, operation))
                if not _fitted(run):
                    supervisor.phase("fit", spec, operation)
                if not _predicted(run):
                    supervisor.phase("evaluate", spec, operation)
                with supervisor.beating("score"):
                    result = publish(run, spec, before_write=supervisor.stay_in_charge)
                supervisor.finish({"status": "ok", "metrics": _headline(result)})
            except BaseException as error:
                supervisor.finish(supervisor.failure or describe(error))
                if not isinstance(error, Exception):
                    raise
    finally:
        if supervisor.unwritten is not None:
            print(f"bnnbench: {run.id}: {supervisor.unwritten}", file=sys.stderr)
    return 0 if supervisor.outcome["status"] == "ok" else 1


class PhaseFailed(Exception):
    """A phase's child did not end well; the supervisor holds the record."""


class Superseded(BenchError):
    """A later attempt exists: this one was taken for dead, and everything is left to its successor."""


@dataclass
class _Supervisor:
    """The parent's side of an attempt: heartbeat, stop requests, the outcome record."""

    run: RunFolder
    attempt: Path
    outcome: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    unwritten: str | None = None
    _stop: str | None = None
    _fit_seconds: float = 0.0
    _peak: int = 0
    _phase: str = "start"
    _begun: float = field(default_factory=time.monotonic)
    _handlers: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> _Supervisor:
        with contextlib.suppress(ValueError):  # not in the main thread: the launcher owns the signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, frame: object) -> None:
        self._stop = signal.Signals(number).name
        outer = self._handlers[number]
        if callable(outer) and outer is not signal.default_int_handler:
            outer(number, frame)  # a launcher in this very process wants to know as well

    def phase(self, name: str, spec: RunSpec, operation: Operation) -> None:
        """Run one phase in a child process; raises PhaseFailed with `failure` set when it does not complete."""
        self._phase, started = name, time.monotonic()
        earlier = self._fit_seconds
        self.stay_in_charge()
        if (reason := self._stop or self._over_time(operation)) is not None:
            self.failure = stopped_record(reason, f"stopped ({reason}) before phase '{name}'")
            raise PhaseFailed(name)

        def every_beat(peak: int | None) -> None:
            if name == "fit":
                self._peak = max(self._peak, peak or 0)
                self._fit_seconds = earlier + time.monotonic() - started
            self.beat(name)
            self.stay_in_charge()

        self.beat(name)
        # The descriptor, not sys.stdout: this is for the log, whatever the process does with its own output.
        os.write(2, f"bnnbench: {name}, device {operation.device}, threads {operation.threads}\n".encode())
        ending = run_in_child(
            self.run,
            self.attempt,
            name,
            spec,
            operation,
            stop_requested=lambda: self._stop or self._over_time(operation),
            every_beat=every_beat,
            beat_seconds=HEARTBEAT_SECONDS,
        )
        if name == "fit":
            measured = ending.record.get("fit_seconds")
            self._fit_seconds = earlier + (measured if measured is not None else time.monotonic() - started)
        if ending.record.get("status") != "done":
            self.failure = ending.record
            raise PhaseFailed(name)

    def stay_in_charge(self) -> None:
        """Raises Superseded when another process has taken the run over."""
        if self.run.superseded(self.attempt):
            raise Superseded(f"attempt {self.run.attempts()[-1].name} took the run over; this one leaves it alone.")

    def _over_time(self, operation: Operation) -> str | None:
        limit = operation.time_limit_seconds
        return TIME_LIMIT if limit is not None and time.monotonic() - self._begun > limit else None

    @contextlib.contextmanager
    def beating(self, phase: str) -> Iterator[None]:
        """Beat from a thread while this process itself is busy; the last phase, after which nothing is forked."""
        over = threading.Event()

        def beats() -> None:
            while not over.wait(HEARTBEAT_SECONDS):
                self.beat(phase)

        self.beat(phase)
        self.stay_in_charge()
        thread = threading.Thread(target=beats, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def beat(self, phase: str) -> None:
        self._phase = phase
        content = {"phase": phase, "fit_seconds": self._fit_seconds, "peak_memory": self._peak}
        with contextlib.suppress(Exception):  # a full disk must not kill a run that may still succeed
            write_heartbeat(self.attempt, content)

    def finish(self, outcome: dict[str, Any]) -> None:
        """Record how the attempt ended."""
        lines = _last_lines(self.attempt / "log.txt") if outcome["status"] != "ok" else []
        self.outcome = {
            "phase": self._phase,
            "fit_seconds": self._fit_seconds,
            "seconds": time.monotonic() - self._begun,
            **outcome,
            **({"last_lines": lines} if lines else {}),
        }
        self.beat(self._phase)
        try:
            write_json(self.attempt / "outcome.json", self.outcome)
        except Exception as error:  # nothing left to write to: the launcher's console is the last place
            message = self.outcome.get("message", self.outcome["status"])
            self.unwritten = f"{message}\n  The outcome could not be written: {error}"
            abandon(self.attempt)


def describe(error: BaseException) -> dict[str, Any]:
    """A failure as a record: status, type, message, traceback, and whether trying again can help."""
    status, retriable = classify(error)
    message = str(error) or type(error).__name__
    if isinstance(error, SystemExit):
        message = f"the code called sys.exit({error.code!r})"
    return {
        "status": status,
        "type": type(error).__name__,
        "message": message,
        "traceback": "".join(traceback.format_exception(error)),
        "retriable": retriable,
    }


def classify(error: BaseException) -> tuple[str, bool]:
    """The status of a run that ended with `error`, and whether the cause is the machine's and not the code's."""
    from benchmark.errors import Diverged, EnvironmentProblem, Interrupted, MissingPackage, NotApplicable

    if isinstance(error, Interrupted | KeyboardInterrupt | Superseded):
        return "killed", True
    if isinstance(error, Diverged):
        return "diverged", False
    if isinstance(error, MissingPackage | NotApplicable):
        return "skipped", False
    if isinstance(error, MemoryError) or _is_torch_oom(error):
        return "oom", False
    if isinstance(error, EnvironmentProblem | MissingNeedError) or _is_disk_trouble(error):
        return "failed", True
    return "failed", False


def _is_torch_oom(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "cannot allocate memory" in text


def _is_disk_trouble(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _fitted(run: RunFolder) -> bool:
    """Whether the products of `fit` are whole and belong together; if not, the phase runs again."""
    return _whole(lambda: check_fitted(run))


def _predicted(run: RunFolder) -> bool:
    """Whether the products of `evaluate` are whole; if not, the phase runs again."""
    return _whole(lambda: check_evaluated(run))


def _whole(check: Callable[[], None]) -> bool:
    try:
        check()
    except FileNotFoundError:
        return False
    except (CorruptFile, CorruptBitstream, PredictionError) as error:
        print(f"bnnbench: {error} The phase is run again.")
        return False
    return True


def _record_of(spec: RunSpec, operation: Operation) -> dict[str, Any]:
    return {
        "code": run_code_digest(spec.task.name, spec.network.name, spec.method.name),
        "operation": operation.model_dump(mode="json"),
        **environment(),
    }


def _headline(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result["metrics"][name].get("value") for name in ("accuracy", "nll", "ece15")}


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return []


@contextlib.contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Send this process's (and its children's) standard output and error to `path`, at the level of descriptors."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (log, *saved):
            os.close(descriptor)


if __name__ == "__main__":
    try:
        sys.exit(work(sys.argv[1]))
    except (BenchError, OSError) as problem:  # before an attempt existed that could hold it
        sys.exit(f"bnnbench: {problem}")
