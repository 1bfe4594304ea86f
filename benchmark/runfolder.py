"""The layout of a run on disk, and what a reader may conclude from it.

    spec.json              what the run is (see identity.py)
    operation.json         how the next attempt is to be executed; written by the launcher
    attempts/<n>/          created exclusively: whoever makes the folder of attempt n runs it
        heartbeat          JSON, rewritten every few seconds: process, phase, seconds, peak memory
        log.txt            what the attempt printed
        env.json           code, packages, machine and settings of the attempt
        progress.json      how far `fit` is; absent when the method does not tell
        fit.json  evaluate.json    how the phase ended, by the phase's own process; absent for one that was killed
        outcome.json       how the attempt ended; absent while it runs and after a kill
        products/          what `archive` moved away: files of the run up to this attempt
    checkpoint/            saved states of `fit`, the two newest
    history.jsonl          the method's own log; absent when the method logs nothing
    figures/               figures that the method made of its fit, NAME.svg; absent when it makes none
    posterior.bin          products of `fit`: the bytes that are counted,
    before.npz                 predictions before encoding (only when encoding changed the draws),
    fit.json                   and facts, seconds and sizes; written last
    predictions.npz        products of `evaluate`: predictions of the decoded posterior,
    evaluation.json            and measurements; written last
    result.json            last of all; a run is done when it is valid

Every file but `log.txt` and `history.jsonl` is replaced by rename: it is whole or absent. The file system is the only
truth: no server, no lock, several launchers at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from benchmark.errors import CorruptFile, EnvironmentProblem
from benchmark.files import read_json, write_bytes, write_json
from benchmark.identity import RunSpec

RESULT_SCHEMA = 1
"""The layout of `result.json` that is written and that tables are read from."""
HEARTBEAT_SECONDS = 5.0
LOST_AFTER_SECONDS = 60.0
FITTED = ("fit.json", "posterior.bin", "before.npz")
EVALUATED = ("evaluation.json", "predictions.npz")
PRODUCTS = (*FITTED, *EVALUATED, "result.json")

UNFINISHED = ("new", "lost", "killed", "timeout", "corrupt")
"""States that `run` goes on with by itself: nothing is wrong with the run, only with what happened to it."""
FAILURES = ("failed", "oom", "diverged", "timeout", "killed", "lost", "skipped")
ARCHIVE = "products"
FIGURES = "figures"


@dataclass(frozen=True)
class State:
    """What the files say of a run. `name`: new, running, ok, corrupt, or how the last attempt ended (failed, oom,
    timeout, killed, diverged, lost, skipped). `retriable`: the failure is the machine's, not the code's."""

    name: str
    attempts: int = 0
    detail: dict[str, Any] = field(default_factory=dict)
    retriable: bool = False


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Reading never writes; nothing here needs torch."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def file(self, name: str) -> Path:
        """A file of the layout above."""
        return self.path / name

    def create(self, spec: RunSpec) -> None:
        """Make the folder with its `spec.json`; one that is there and whole is left alone, a damaged one mended."""
        try:
            if self.spec().id == spec.id:
                return
        except (FileNotFoundError, CorruptFile):
            pass
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.file("spec.json"), spec.to_json(), durable=False)

    def spec(self) -> RunSpec:
        """The run's specification.

        Raises:
            FileNotFoundError, CorruptFile: it is absent or damaged.
        """
        path = self.file("spec.json")
        return RunSpec.from_json(read_json(path), str(path))

    # -- results ----------------------------------------------------------------------------------------------

    def publish(self, result: dict[str, Any]) -> None:
        """Write `result.json`, sealed by a digest of its own bytes. The last write of a run."""
        write_bytes(self.file("result.json"), seal(result))

    def result(self) -> dict[str, Any] | None:
        """The valid result, or None when there is none.

        Raises:
            CorruptFile: the file is there and damaged; says what to do.
        """
        path = self.file("result.json")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        return unseal(data, path)

    # -- attempts ---------------------------------------------------------------------------------------------

    def attempts(self) -> list[Path]:
        """Folders of the attempts so far, oldest first."""
        try:
            names = [entry.name for entry in os.scandir(self.path / "attempts") if entry.name.isdigit()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [self.path / "attempts" / name for name in sorted(names, key=int)]

    def current_attempts(self) -> list[Path]:
        """The attempts that work on the present products: those after the last `archive`."""
        return _current(self.attempts())

    def state(self, now: float | None = None) -> State:
        """What has become of the run. `now` is the file server's clock (default: this machine's)."""
        return self._state(self.attempts(), time.time() if now is None else now)

    def _state(self, attempts: list[Path], now: float) -> State:
        current = _current(attempts)
        last = _state_of(current[-1], len(current), now) if current else State("new")
        if last.name == "running":
            return last
        # Read after the outcome, which is written after it: an attempt that ends in between has left its result.
        try:
            result = self.result()
        except CorruptFile as error:
            return State("corrupt", len(current), {"message": str(error)}, retriable=True)
        if result is not None:
            return State("ok", len(current), result)
        if last.name == "ok":
            message = f"{self.file('result.json')} is missing, although attempt {current[-1].name} published it"
            return State("corrupt", len(current), {"message": message}, retriable=True)
        return last

    def claim(self, seen: int | None = None) -> Path | None:
        """Take the run: create the folder of the next attempt. None when another process holds the run or wins it.

        Creation is exclusive, so of several launchers exactly one succeeds, and a claim left by a dead process is
        taken over by one of them only. `seen`: how many attempts there were when the caller decided to run it; when
        there are more by now, somebody else has run it.

        Raises:
            EnvironmentProblem: the disk is full; the run is left as it was.
        """
        (self.path / "attempts").mkdir(parents=True, exist_ok=True)
        attempts = self.attempts()
        if seen is not None and len(attempts) != seen:
            return None
        if self._state(attempts, clock_of(self.path / "attempts")).name in ("running", "ok"):
            return None
        # The number follows from the list that the decision was made on, never from a later look: a process that was
        # slower than the winner collides with it here.
        number = int(attempts[-1].name) + 1 if attempts else 1
        attempt = self.path / "attempts" / f"{number:04d}"
        try:
            attempt.mkdir()
        except FileExistsError:
            return None
        try:
            write_heartbeat(attempt, {"phase": "start"})
        except BaseException:
            abandon(attempt)
            raise
        self._sweep()
        return attempt

    def _sweep(self) -> None:
        """Remove the half-written neighbours of products that a killed attempt left behind."""
        names = [f".{name}.*.tmp" for name in (*FITTED, *EVALUATED)]
        checkpoints, figures = self.path / "checkpoint", self.path / FIGURES
        for path in [*(path for name in names for path in self.path.glob(name)), *checkpoints.glob(".*.tmp"),
                     *checkpoints.glob("*.new"), *figures.glob(".*.tmp")]:  # fmt: skip
            with contextlib.suppress(OSError):
                path.unlink()

    def superseded(self, attempt: Path) -> bool:
        """True when a later attempt exists: this one was taken for dead and must not write any more."""
        return self.attempts()[-1:] != [attempt]

    def archive(self) -> None:
        """Move the products of a finished or failed run into its last attempt, so that it can be run afresh."""
        attempts = self.attempts()
        if not attempts:
            return
        target = attempts[-1] / ARCHIVE
        target.mkdir(exist_ok=True)
        # The result first: without it nothing is taken for whole.
        for name in ("result.json", *PRODUCTS, "history.jsonl", FIGURES):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.file(name), target / name)
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)


def _current(attempts: list[Path]) -> list[Path]:
    archived = [index for index, attempt in enumerate(attempts) if (attempt / ARCHIVE).is_dir()]
    return attempts[archived[-1] + 1 :] if archived else attempts


def _state_of(attempt: Path, count: int, now: float) -> State:
    try:
        outcome = read_json(attempt / "outcome.json")
        if outcome["status"] not in (*FAILURES, "ok"):
            raise CorruptFile(f"unknown status {outcome['status']!r}")
        return State(outcome["status"], count, outcome, bool(outcome.get("retriable")))
    except FileNotFoundError:
        pass
    except (CorruptFile, KeyError, TypeError):
        return State("lost", count, {"message": f"{attempt / 'outcome.json'} is damaged"}, retriable=True)
    beat = read_heartbeat(attempt)
    if _alive(attempt, beat, now):
        return State("running", count, beat)
    message = f"no sign of life since {_age(attempt, now):.0f} s, in phase '{beat.get('phase', 'start')}'"
    if "pid" not in beat:
        message = "the attempt ended without a record of how"
    return State("lost", count, {**beat, "message": message}, retriable=True)


def _alive(attempt: Path, beat: dict[str, Any], now: float) -> bool:
    if beat.get("host") == _host() and isinstance(beat.get("pid"), int):
        return beat.get("started") is not None and _started(beat["pid"]) == beat["started"]
    return _age(attempt, now) < LOST_AFTER_SECONDS


def _host() -> str:
    """This machine, as far as process numbers mean anything: containers may share a host name and not their pids."""
    name = socket.gethostname()
    try:
        return f"{name} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return name


def clock_of(folder: Path) -> float:
    """The present time of the file server that holds `folder`, so that ages are right on a skewed machine.

    Raises:
        EnvironmentProblem: the folder is not writable.
    """
    probe = folder / f".clock.{secrets.token_hex(8)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError as error:
        raise EnvironmentProblem(f"{folder} is not writable ({error.strerror}).") from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def abandon(attempt: Path) -> None:
    """Mark an attempt as dead when no record of its end can be written: no heartbeat, and old."""
    with contextlib.suppress(OSError):
        (attempt / "heartbeat").unlink(missing_ok=True)
        os.utime(attempt, (0, 0))


def _age(attempt: Path, now: float) -> float:
    for path in (attempt / "heartbeat", attempt):
        with contextlib.suppress(FileNotFoundError):
            return now - path.stat().st_mtime
    return float("inf")


def write_heartbeat(attempt: Path, content: dict[str, Any]) -> None:
    """Say that this process works on the attempt. Not flushed to the platter: a lost beat costs nothing."""
    me = {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}
    write_json(attempt / "heartbeat", {**me, **content}, durable=False)


def read_heartbeat(attempt: Path) -> dict[str, Any]:
    """The last heartbeat, or an empty record when there is none that can be read."""
    try:
        beat = read_json(attempt / "heartbeat")
    except (FileNotFoundError, CorruptFile):
        return {}
    return beat if isinstance(beat, dict) else {}


def _started(pid: int) -> str | None:
    """When a process of this machine was started, in clock ticks since boot: tells a re-used pid from its
    predecessor. None when there is no such process; a zombie counts as gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as handle:
            fields = handle.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
    except OSError:
        return None
    try:  # a system without /proc: existence is all that can be asked for
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def seal(value: dict[str, Any]) -> bytes:
    """JSON text whose last field is the SHA-256 of all bytes before it."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()[:-1]
    return body + b',"digest":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def unseal(data: bytes, path: Path) -> dict[str, Any]:
    """The value of sealed bytes.

    Raises:
        CorruptFile: the digest does not fit the bytes.
    """
    body, mark, tail = data.rpartition(b',"digest":"')
    if not mark or tail.rstrip() != hashlib.sha256(body).hexdigest().encode() + b'"}':
        raise CorruptFile(
            f"{path} is damaged: its bytes do not match its digest. The predictions beside it are kept; "
            "`bnnbench rescore` or running the study again makes it anew."
        )
    value: dict[str, Any] = from_json(body + b"}")  # three times as fast as `json`, to the same digits
    return value
