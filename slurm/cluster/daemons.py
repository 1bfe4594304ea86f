"""Starting a daemon in the background and waiting until it answers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import EnvironmentProblem
from slurm.cluster.machine import clean_environment
from slurm.cluster.processes import Process, wait_for

# Daemons carry it with the folder of their cluster; what they start themselves (job steps) inherits it.
MARK = "BNNBENCH_CLUSTER"


@dataclass(frozen=True)
class Daemon:
    """name: of the program. child: the handle of the process, a child of this one. log: what it writes."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, answers: Callable[[], bool], limit_s: float, fix: str) -> None:
        """Returns when `answers()`. Raises EnvironmentProblem, with the last lines of the log and `fix`, when the
        daemon ends before that or `limit_s` seconds pass."""
        alive = self._alive
        if not wait_for(lambda: not alive() or answers(), limit_s):
            raise self._problem(f"did not answer within {limit_s:.0f} s", fix)
        if not alive():
            raise self._problem(f"ended with status {self.child.returncode}", fix)

    def _alive(self) -> bool:
        return self.child.poll() is None

    def _problem(self, what: str, fix: str) -> EnvironmentProblem:
        return EnvironmentProblem(f"{self.name} {what}. {fix}\nThe end of {self.log}:\n{tail(self.log)}")


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    record: Path,
    environment: Mapping[str, str],
) -> Daemon:
    """Starts `command` in a session of its own, so that Ctrl-C in the terminal does not reach it.

    log: the file to which its output is appended. record: where its number and start time go. environment: what is set
    besides a clean one.
    """
    with open(log, "ab") as out:
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**clean_environment(), **environment},
            cwd="/",
            start_new_session=True,
        )
    process = Process.of(child.pid)
    if process is not None:
        process.record(record)
    return Daemon(Path(str(command[0])).name, child, log)


def answers(command: Sequence[str | Path], environment: Mapping[str, str], limit_s: float = 10.0) -> str | None:
    """The output of a command that succeeds within `limit_s` seconds; None otherwise."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            env={**clean_environment(), **environment},
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log, indented; `(empty)` when there are none."""
    try:
        text = path.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        text = []
    return "\n".join(f"  {line}" for line in text) or "  (empty)"
