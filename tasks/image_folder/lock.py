"""One process at a time, on all machines that share a folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


@contextmanager
def alone(path: Path, what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock on the file `path` while `what` is made; wait for another holder, and say who it is.

    The system gives the lock back when its holder ends, however it ends. The file stays. Where the file system knows no
    locks, that is said and nothing is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as handle:
        try:
            _take(handle, what, say)
        except OSError as error:
            say(f"{path} cannot be locked ({error.strerror}): make sure that nothing else prepares {what} meanwhile")
        else:
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            handle.flush()
        try:
            yield
        finally:
            with suppress(OSError):  # at once: loader processes have inherited the open file
                fcntl.flock(handle, fcntl.LOCK_UN)


def _take(handle: TextIO, what: str, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        say(f"{what} is being prepared by {handle.read() or 'another process'}; waits for it")
        fcntl.flock(handle, fcntl.LOCK_EX)
