"""Data sets on this machine: how each of them stands, fetching what is missing, reading all of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.datasets import SHOWN, DataSet
from benchmark.errors import BenchError, EnvironmentProblem

Say = Callable[[str], None]


@dataclass(frozen=True)
class Standing:
    """How a data set stands. state: "ok", "missing" (nothing of it is there) or "partial"; problems: one line each."""

    data: DataSet
    state: str
    folder: Path
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For programs; sizes in bytes."""
        return {
            "name": self.data.name,
            "title": self.data.title,
            "source": self.data.source,
            "state": self.state,
            "size": self.data.size,
            "download": self.data.download,
            "folder": str(self.folder),
            "problems": list(self.problems),
            "manual": self.data.manual,
        }


def standing_of(data: DataSet, root: Path) -> Standing:
    """Ask the file system; a data set that cannot be asked is partial, and its problem says why."""
    folder = data.folder(root)
    try:
        problems = tuple(data.problems(root))
    except Exception as error:  # no permission, or a damaged index: one of many data sets
        return Standing(data, "partial", folder, (explained(error),))
    if not problems:
        return Standing(data, "ok", folder)
    something = any(_holds_something(path) for path in _own_paths(data, root))
    return Standing(data, "partial" if something else "missing", folder, problems)


def prepare(data: DataSet, root: Path, say: Say) -> str | None:
    """Fetch what is missing of one data set; None when it is whole then, else what went wrong and how to mend it.

    Only KeyboardInterrupt and the like are raised: one failure must not keep the others from being fetched.
    """
    try:
        _require_room(data, root)
        root.mkdir(parents=True, exist_ok=True)
        data.prepare(root, say)
        left = data.problems(root)
    except Exception as error:
        return explained(error)
    if not left:
        return None
    advice = f"\n{data.manual}" if data.manual else ""
    return "it was prepared, and is still not whole:\n" + shortened(left) + advice


def set_aside(data: DataSet, root: Path, say: Say) -> str | None:
    """Rename files that are not the published ones to NAME.damaged, so that `prepare` fetches them; None, or what kept
    them from being read or renamed."""
    try:
        for path in data.damaged(root):
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            say(f"{path} is not the published file: moved to {aside}")
    except Exception as error:
        return explained(error)
    return None


def verify(data: DataSet, root: Path, say: Say) -> tuple[str, ...]:
    """Read all of one data set; its problems, none when all is well."""
    try:
        return tuple(data.problems(root)) or tuple(data.verify(root, say))
    except Exception as error:
        return (explained(error),)


def prepare_sees(data: DataSet, root: Path) -> bool:
    """Whether `bnnbench data prepare` would find something to do: what is wrong shows in sizes, or in published
    checksums."""
    try:
        return bool(data.problems(root)) or bool(data.damaged(root))
    except Exception:  # what cannot be read, it cannot mend
        return False


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write at `path`, which need not exist yet."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def size_text(size: float) -> str:
    """A number of bytes for people: 170 MB, 1.2 TB (powers of 1000, as downloads are announced)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def shortened(problems: Sequence[str]) -> str:
    """The first problems, one per line, and how many more there are."""
    more = [f"... {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "\n".join([*problems[:SHOWN], *more])


def explained(error: BaseException) -> str:
    """The suite's and the system's own errors speak for themselves; of others, the type says more than the text."""
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, BenchError | OSError) else f"{type(error).__name__}: {text}"


def _require_room(data: DataSet, root: Path) -> None:
    """What is there already is counted only when room is short: walking through a million files takes minutes. Files
    that the user has to put there are counted by nobody: they are there, or nothing is prepared."""
    if data.manual and not data.download:
        return
    needed, free = data.size + data.download, free_bytes(root)
    if needed > free and (needed := needed - sum(map(_bytes_in, _own_paths(data, root)))) > free:
        raise EnvironmentProblem(
            f"it needs {size_text(needed)} ({size_text(data.download)} of download, {size_text(data.size)} when "
            f"prepared), and {root} has {size_text(free)} left. Free some space, or name another folder by --data-root."
        )


def _own_paths(data: DataSet, root: Path) -> list[Path]:
    """The root itself is everybody's."""
    return [path for path in data.paths(root) if path != root]


def _bytes_in(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)


def _holds_something(path: Path) -> bool:
    try:
        return path.is_file() or any(path.iterdir())
    except OSError:
        return False
