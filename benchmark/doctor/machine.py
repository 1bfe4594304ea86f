"""Cores, memory and shared memory that this process may use, within its control groups; text on the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmark.doctor.finding import Finding

GIB = 2**30
LITTLE_MEMORY, LITTLE_SHARED = 2 * GIB, 0.5 * GIB
SYMBOLS = "≈ ° × – ─ ±"


def processors(_results: Path) -> Iterator[Finding]:
    """Cores after affinity and control groups."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    text = f"{allowed} of {os.cpu_count()} cores"
    if quota is not None and quota < allowed:
        mend = f"give --workers {max(1, int(quota))}: by default one run per core is started"
        yield Finding("cores", "doubtful", f"{text}, and the control group grants {quota:g} of them", mend)
    else:
        yield Finding("cores", "well", text)


def memory(_results: Path) -> Iterator[Finding]:
    """What is free, or what the control group leaves, whichever is less."""
    free, total = _meminfo()
    limit, used = memory_limit()
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if limit is not None and limit < total:
        text += f"; the control group allows {limit / GIB:.1f} GiB, {used / GIB:.1f} in use"
        free = min(free, limit - used)
    if free < LITTLE_MEMORY:
        yield Finding("memory", "doubtful", text, "give --workers 1, or end other programs: torch alone takes 0.5 GiB")
    else:
        yield Finding("memory", "well", text)


def shared_memory(_results: Path) -> Iterator[Finding]:
    """/dev/shm, through which processes that decode files hand batches over."""
    place = Path("/dev/shm")
    if not place.is_dir():
        yield Finding("shared memory", "doubtful", "no /dev/shm", "give --loaders 0, which reads without helpers")
        return
    stats = os.statvfs(place)
    free = stats.f_bavail * stats.f_frsize
    text = f"{free / GIB:.1f} GiB free in /dev/shm"
    if free < LITTLE_SHARED:
        mend = "give --loaders 0, or more of it: docker run --shm-size=8g (or --ipc=host)"
        yield Finding("shared memory", "doubtful", f"{text}: too little for processes that decode images", mend)
    else:
        yield Finding("shared memory", "well", text)


def text_output(_results: Path) -> Iterator[Finding]:
    """Whether tables can be printed with their symbols."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        SYMBOLS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        text = f"standard output is {encoding}, which lacks {SYMBOLS}"
        yield Finding("terminal", "doubtful", text, "export PYTHONUTF8=1, or a locale such as LANG=C.UTF-8")
        return
    yield Finding("terminal", "well", f"{encoding}, LANG={os.environ.get('LANG', '(unset)')}")


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores that the control groups (version 2, or 1) grant; None for all of them."""
    granted = []
    for folder in _groups(root, own, "cpu"):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            granted.append(int(quota) / int(period))
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
            granted += [int(quota) / int(period)] if int(quota) > 0 else []
    return min(granted, default=None)


def memory_limit(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> tuple[int | None, int]:
    """(bytes that the tightest control group allows, or None; bytes in use in that group)."""
    found: list[tuple[int, int]] = []
    for folder in _groups(root, own, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with suppress(OSError, ValueError):
                found.append((int((folder / limit).read_text()), int((folder / used).read_text())))
    tightest = min(found, default=None)
    return tightest if tightest is not None else (None, 0)


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of all that contain it."""
    with suppress(OSError):
        for line in own.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" or controller in controllers.split(","):
                base = root if number == "0" else root / controller
                folder = base / path.lstrip("/")
                yield folder
                yield from (parent for parent in folder.parents if parent.is_relative_to(base))


def _meminfo() -> tuple[int, int]:
    """(free, total) bytes of the machine."""
    with open("/proc/meminfo", encoding="ascii") as handle:
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in handle}
    return values.get("MemAvailable", values["MemFree"]), values["MemTotal"]
