"""One line of the examination, and how checks are run: each on its own, none for ever."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

COMMAND_SECONDS = 5.0
State = Literal["well", "optional", "doubtful", "missing"]


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    state: "well"; "optional": not there, and only some uses need it; "doubtful": it works, with a risk; "missing":
    needed, and absent or broken. mend: what to do, a command where there is one.
    """

    topic: str
    state: State
    text: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """Something to look at. seconds: it is given up after this long without a finding."""

    topic: str
    look: Callable[[Path], Iterable[Finding]]
    """Called with the results folder."""
    seconds: float = 20.0


def examine(checks: Sequence[Check], results: Path) -> Iterator[Finding]:
    """The findings of all checks, as they come. A check that raises or hangs is a finding and stops no other."""
    for check in checks:
        yield from _within_time(check, results)


def _within_time(check: Check, results: Path) -> Iterator[Finding]:
    found: queue.Queue[Finding | None] = queue.Queue()

    def work() -> None:
        try:
            for finding in check.look(results):
                found.put(finding)
        except Exception as error:
            text = f"this could not be looked at: {type(error).__name__}: {error}"
            found.put(Finding(check.topic, "doubtful", text))
        found.put(None)

    # A daemon: a network file system that does not answer must not hold the command for ever.
    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            finding = found.get(timeout=check.seconds)
        except queue.Empty:
            text = f"no answer within {check.seconds:g} s; a network file system or a driver may hang"
            yield Finding(check.topic, "missing", text)
            return
        if finding is None:
            return
        yield finding


def output_of(*command: str) -> str:
    """What a command prints, within 5 s.

    Raises:
        RuntimeError: it fails or hangs; the text says what it printed.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"`{' '.join(command)}` did not answer within {COMMAND_SECONDS:g} s") from error
    except OSError as error:
        raise RuntimeError(f"`{' '.join(command)}` cannot be started ({error.strerror})") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[0]
        raise RuntimeError(f"`{' '.join(command)}` ended with exit status {done.returncode} and said: {said}")
    return done.stdout.strip()
