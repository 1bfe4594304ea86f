"""The authentication daemon `munged`, one for all clusters of this machine.

It has its usual key and socket, as user `munge`. A munged that runs already is used and left alone. One that a cluster
started is stopped with the last cluster that uses it: each keeps a note here, valid while something of it lives.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fcntl import LOCK_EX, flock
from hashlib import sha256
from os import getpid
from pathlib import Path
from shutil import chown

from benchmark import EnvironmentProblem
from slurm.cluster.daemons import answers, tail
from slurm.cluster.layout import Layout
from slurm.cluster.machine import clean_environment
from slurm.cluster.processes import Process, end, wait_for

NOTES = Path("/run/bnnbench-munge")
_RECORD = NOTES / "munged.json"
_KEY = Path("/etc/munge/munge.key")
_SOCKET_FOLDER = Path("/run/munge")
_PID_FILE = _SOCKET_FOLDER / "munged.pid"
_LOG = Path("/var/log/munge/munged.log")


def hold(layout: Layout) -> None:
    """munged runs when this returns, and goes on until `release`. Raises EnvironmentProblem when it does not start."""
    with _locked():
        if not _answering():
            _start()
        if running() is not None:
            starter = Process.of(getpid())
            note = {"folder": str(layout.folder), "starter": asdict(starter) if starter else None}
            _note_of(layout).write_text(json.dumps(note))


def release(layout: Layout) -> None:
    """This cluster needs munged no more: it is stopped if a cluster started it and no other needs it."""
    if not NOTES.exists():
        return
    with _locked():
        _note_of(layout).unlink(missing_ok=True)
        ours = running()
        if ours is not None and not any(_in_use(note) for note in NOTES.glob("user-*.json")):
            end([ours])
            _RECORD.unlink(missing_ok=True)


def running() -> Process | None:
    """The munged that a cluster started, if it lives."""
    process = Process.recorded(_RECORD)
    return process if process is not None and process.alive else None


def _start() -> None:
    """munged goes into the background by itself, and its first process ends when it answers."""
    if not _KEY.exists():
        raise EnvironmentProblem(
            f"munged has no key: {_KEY} is missing. As root: mungekey --create && chown munge: {_KEY}"
        )
    for folder in (_SOCKET_FOLDER, NOTES):
        folder.mkdir(mode=0o755, exist_ok=True)
    chown(_SOCKET_FOLDER, "munge", "munge")
    began = subprocess.run(
        ["munged"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean_environment(),
        user="munge",
        group="munge",
        extra_groups=[],
        timeout=30,
        check=False,
    )
    if began.returncode != 0 or not wait_for(_answering, 10):
        raise EnvironmentProblem(
            f"munged did not start (status {began.returncode}): {began.stderr.strip()}\n"
            f"Its key {_KEY} must belong to the user munge, with mode 600.\nThe end of {_LOG}:\n{tail(_LOG)}"
        )
    process = Process.of(int(_PID_FILE.read_text()))
    if process is not None:
        process.record(_RECORD)


def _answering() -> bool:
    return answers(["munge", "--no-input"], {}, limit_s=5) is not None


def _in_use(note: Path) -> bool:
    """Whether the cluster of this note runs or is being started; a note of a dead one is removed."""
    try:
        found = json.loads(note.read_text())
        starter = Process(**found["starter"]) if found["starter"] else None
        used = bool(Layout(Path(found["folder"])).living()) or (starter is not None and starter.alive)
    except (OSError, ValueError, TypeError, KeyError):
        used = False
    if not used:
        note.unlink(missing_ok=True)
    return used


def _note_of(layout: Layout) -> Path:
    return NOTES / f"user-{sha256(str(layout.folder).encode()).hexdigest()[:16]}.json"


@contextmanager
def _locked() -> Iterator[None]:
    NOTES.mkdir(mode=0o755, exist_ok=True)
    with open(NOTES / "lock", "w") as file:
        flock(file, LOCK_EX)
        yield
