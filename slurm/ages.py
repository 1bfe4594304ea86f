"""How old a file is, by the clock that stamps files: clocks of login and compute nodes differ by minutes."""

from __future__ import annotations

from pathlib import Path


def age(path: Path, now: float) -> float | None:
    """Seconds since the file was last written, `now` by `benchmark.clock_of` a folder of the same file system; None
    when there is no such file.

    Never negative: a file from the future was written by a machine that is ahead, and is as good as new.
    """
    try:
        return max(0.0, now - path.stat().st_mtime)
    except OSError:
        return None
