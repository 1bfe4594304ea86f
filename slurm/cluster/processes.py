"""Processes known by number and start time, so that a number which the kernel gave away again is never signalled."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark import EnvironmentProblem

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """pid: its number. started: its start in clock ticks since boot, field 22 of /proc/PID/stat (proc(5))."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process of that number, or None; a zombie counts as dead."""
        try:
            # The name in brackets may hold blanks and brackets: fields are counted from the last bracket on.
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return cls(pid, int(fields[19])) if fields[0] not in "ZX" else None

    @classmethod
    def recorded(cls, path: Path) -> Process | None:
        """The process that `record` wrote to `path`, living or not; None when there is no readable record."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def record(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        """Sends it if the process still is the same."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def end(processes: Iterable[Process], patience_s: float = 10.0) -> None:
    """Asks all with SIGTERM, kills what is left after `patience_s` seconds, and returns when all are gone.

    Raises EnvironmentProblem when one outlives SIGKILL by 10 s.
    """
    wanted = [process for process in processes if process.alive]
    for number, limit_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
        for process in wanted:
            process.signal(number)
        if wait_for(lambda: not any(process.alive for process in wanted), limit_s):
            return
    left = ", ".join(str(process.pid) for process in wanted if process.alive)
    raise EnvironmentProblem(f"processes {left} do not end, not even by SIGKILL. Look at them with: ps -fp {left}")


def wait_for(condition: Callable[[], bool], limit_s: float, every_s: float = 0.05) -> bool:
    """Whether `condition` came true within `limit_s` seconds."""
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= until:
            return False
        time.sleep(every_s)
    return True


def with_environment(setting: str, also: str = "") -> list[Process]:
    """Processes that were started with `setting` (NAME=VALUE) in their environment and, if `also` is given, with any
    setting of that name; without this process and those that it descends from."""
    own = _ancestors()
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        try:
            settings = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or not ours to read
            continue
        marked = setting.encode() in settings
        if marked and (not also or any(one.startswith(f"{also}=".encode()) for one in settings)):
            found.append(Process.of(int(entry.name)))
    return [process for process in found if process is not None]


def _ancestors() -> set[int]:
    pids: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        try:
            pid = int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return pids
