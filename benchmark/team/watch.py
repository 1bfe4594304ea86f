"""Watching the members that a leader has started: what they print goes to the log, and how they end is noticed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmark.errors import BenchError, EnvironmentProblem
from benchmark.operation import STOP_EXIT

KEPT_LINES = 20
GRACE_SECONDS = 10.0
"""For the leader to come back by itself from an exchange with the dead: gloo does at once, NCCL may not."""


@dataclass
class Member:
    """A process that the leader has started. rank: from 1."""

    rank: int
    process: subprocess.Popen[bytes]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))

    def failure(self) -> BaseException | None:
        """How it has failed; None while it runs, and where it ended well (done, or saved on request)."""
        code = self.process.poll()
        if code is None or code in (0, STOP_EXIT):
            return None
        said = "".join(f"\n    {line}" for line in self.lines) or " nothing"
        text = f"ended with exit status {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
        message = f"rank {self.rank} of this run, process {self.process.pid}, {text}. Its last lines:{said}"
        if any("out of memory" in line.lower() for line in self.lines):
            return MemoryError(message)
        return EnvironmentProblem(message) if code < 0 else BenchError(message)


class Watch:
    """Threads that read what members print, and one that ends this process by `fail` when one has died and the main
    thread has not noticed within GRACE_SECONDS."""

    def __init__(self, members: Sequence[Member], fail: Callable[[BaseException], None]) -> None:
        self.members, self._fail = list(members), fail
        self._over = threading.Event()
        self._readers = [threading.Thread(target=_pass_on, args=(member,), daemon=True) for member in self.members]
        for thread in (*self._readers, threading.Thread(target=self._guard, daemon=True)):
            thread.start()

    def failure(self, seconds: float) -> BaseException | None:
        """The first member's failure there is; waits `seconds` for one."""
        deadline = time.monotonic() + seconds
        while True:
            for member, reader in zip(self.members, self._readers, strict=True):
                if member.process.poll() is not None:
                    reader.join(1.0)  # its last lines
                if (found := member.failure()) is not None:
                    return found
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.02)

    def last_lines(self) -> str:
        """Of every member."""
        return "\n".join(f"  [rank {member.rank}] {line}" for member in self.members for line in member.lines)

    def expect_end(self) -> None:
        """From now on the main thread looks after itself."""
        self._over.set()

    def join(self, seconds: float) -> None:
        """Wait until all members have ended, each at most so long."""
        for member in self.members:
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.process.wait(seconds)

    def end(self) -> None:
        """Kill the members that are still there."""
        self._over.set()
        for member in self.members:
            if member.process.poll() is None:
                member.process.kill()
            member.process.wait()
        for reader in self._readers:
            reader.join(1.0)

    def _guard(self) -> None:
        while not self._over.wait(0.2):
            if self.failure(0) is None:
                continue
            if self._over.wait(GRACE_SECONDS):
                return
            found = self.failure(0)
            assert found is not None
            self._fail(found)
            return


def _pass_on(member: Member) -> None:
    """To the log, line by line. The descriptor, not sys.stderr: see `benchmark.worker`."""
    assert member.process.stdout is not None
    for raw in member.process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        member.lines.append(line)
        with contextlib.suppress(OSError):
            os.write(2, f"[rank {member.rank}] {line}\n".encode())
