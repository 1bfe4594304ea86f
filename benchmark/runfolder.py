"""The layout of a run on disk, and what a reader may conclude from it.

    spec.json              what the run is (see identity.py)
    operation.json         how the next attempt is to be executed; written by the launcher
    attempts/<n>/          created exclusively: whoever makes the folder of attempt n runs it
        heartbeat          JSON, rewritten every few seconds: process, phase, seconds, progress
        env.json  log.txt
        outcome.json       how the attempt ended; absent while it runs and after a kill
    checkpoint/            saved states of `fit`
    history.jsonl          the method's own log
    fit.json posterior.bin predictions.npz evaluation.json     products of the phases, each whole or absent
    result.json            last of all; a run is done when it is valid

The file system is the only truth: no server, no lock, several launchers at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import CorruptFile
from benchmark.files import read_json, write_bytes, write_json
from benchmark.identity import RunSpec

HEARTBEAT_SECONDS = 5.0
LOST_AFTER_SECONDS = 60.0
PRODUCTS = ("fit.json", "posterior.bin", "before.npz", "predictions.npz", "evaluation.json", "result.json")

UNFINISHED = ("new", "lost", "killed", "timeout", "corrupt")
"""States that `run` goes on with by itself: nothing is wrong with the run, only with what happened to it."""
FAILURES = ("failed", "oom", "diverged", "timeout", "killed", "lost")


@dataclass(frozen=True)
class State:
    """What the files say of a run. `name`: new, running, ok, corrupt, or how the last attempt ended (failed, oom,
    timeout, killed, diverged, lost). `retriable`: the failure is the machine's, not the code's."""

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
        except FileNotFoundError:
            return []
        return [self.path / "attempts" / name for name in sorted(names)]

    def state(self, now: float | None = None) -> State:
        """What has become of the run. `now` is the file server's clock (default: this machine's)."""
        try:
            result = self.result()
        except CorruptFile as error:
            return State("corrupt", len(self.attempts()), {"message": str(error)}, retriable=True)
        if result is not None:
            return State("ok", result.get("attempts", 0), result)
        attempts = self.attempts()
        if not attempts:
            return State("new")
        return _state_of(attempts[-1], len(attempts), time.time() if now is None else now)

    def claim(self) -> Path | None:
        """Take the run: create the folder of the next attempt. None when another process holds the run or wins it.

        Creation is exclusive, so of several launchers exactly one succeeds, and a claim left by a dead process is
        taken over by one of them only.
        """
        (self.path / "attempts").mkdir(parents=True, exist_ok=True)
        if self.state().name in ("running", "ok"):
            return None
        attempt = self.path / "attempts" / f"{len(self.attempts()) + 1:04d}"
        try:
            attempt.mkdir()
        except FileExistsError:
            return None
        write_heartbeat(attempt, {"phase": "start"})
        return attempt

    def superseded(self, attempt: Path) -> bool:
        """True when a later attempt exists: this one was taken for dead and must not write any more."""
        return self.attempts()[-1:] != [attempt]

    def archive(self) -> None:
        """Move the products of a finished or failed run into its last attempt, so that it can be run afresh."""
        attempts = self.attempts()
        if not attempts:
            return
        target = attempts[-1] / "products"
        target.mkdir(exist_ok=True)
        for name in (*PRODUCTS, "history.jsonl"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.file(name), target / name)
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)


def _state_of(attempt: Path, count: int, now: float) -> State:
    try:
        outcome = read_json(attempt / "outcome.json")
        return State(outcome["status"], count, outcome, bool(outcome.get("retriable")))
    except FileNotFoundError:
        pass
    except (CorruptFile, KeyError, TypeError):
        return State("lost", count, {"message": f"{attempt / 'outcome.json'} is damaged"}, retriable=True)
    beat = read_heartbeat(attempt)
    if _alive(attempt, beat, now):
        return State("running", count, beat)
    message = f"no sign of life since {_age(attempt, now):.0f} s, in phase '{beat.get('phase', 'start')}'"
    return State("lost", count, {**beat, "message": message}, retriable=True)


def _alive(attempt: Path, beat: dict[str, Any], now: float) -> bool:
    if beat.get("host") == socket.gethostname() and "pid" in beat:
        return _started(beat["pid"]) == beat.get("started")
    return _age(attempt, now) < LOST_AFTER_SECONDS


def _age(attempt: Path, now: float) -> float:
    for path in (attempt / "heartbeat", attempt):
        with contextlib.suppress(FileNotFoundError):
            return now - path.stat().st_mtime
    return float("inf")


def write_heartbeat(attempt: Path, content: dict[str, Any]) -> None:
    """Say that this process works on the attempt. Not flushed to the platter: a lost beat costs nothing."""
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
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
    value: dict[str, Any] = json.loads(body + b"}")
    return value
