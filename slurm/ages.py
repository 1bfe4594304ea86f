"""How old a file is, by the clock that stamps files: clocks of login and compute nodes differ by minutes."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from benchmark import EnvironmentProblem


def file_clock(folder: Path) -> float:
    """The present time by the file server of `folder`, in seconds: what it stamps on a file that is touched now.

    One probe serves all files of the same file system.

    Raises:
        EnvironmentProblem: the folder is missing or not writable.
    """
    probe = folder / f".clock.{secrets.token_hex(8)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError as error:
        raise EnvironmentProblem(
            f"{folder} is not writable ({error.strerror}); the age of heartbeats is told by a file written there."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def age(path: Path, now: float) -> float | None:
    """Seconds since the file was last written, `now` by its own `file_clock`; None when there is no such file.

    Never negative: a file from the future was written by a machine that is ahead, and is as good as new.
    """
    try:
        return max(0.0, now - path.stat().st_mtime)
    except OSError:
        return None
