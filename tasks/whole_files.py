"""Writing files that are complete or not there, by one process at a time where several would be in each other's way."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmark import EnvironmentProblem


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary neighbour, which is flushed and renamed: the file is complete or not there.

    The neighbour's name is one that no other process has. Whatever `write` raises, nothing is left of it.

    Raises:
        EnvironmentProblem: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error}. Nothing was left half-written.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def flush(path: Path) -> None:
    """Wait until the file's content is on disk: a rename that comes after it names a whole file, also after a crash."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def write_text(path: Path, text: str) -> None:
    """As UTF-8."""
    path.write_text(text, encoding="utf-8")


def copy_checked(source: Path, target: Path, digest: str) -> None:
    """Copy a file of that SHA-256.

    Raises:
        EnvironmentProblem: it is another one by now.
    """
    shutil.copyfile(source, target)
    with open(target, "rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != digest:
        raise EnvironmentProblem(f"{source} changed while it was copied. Plan again when it is written.")


def make_folder(folder: Path) -> None:
    """With its parents; EnvironmentProblem where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot make the folder {folder}: {error}. Choose a data root that can be written."
        ) from error


def require_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin with what cannot be finished. needed: bytes below `folder`, which exists.

    Raises:
        EnvironmentProblem: names both numbers, in GB.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise EnvironmentProblem(
            f"{what} needs {needed / 1e9:,.2f} GB, and {folder} has {free / 1e9:,.2f} GB left. Free some space, or "
            "name another folder by --data-root."
        )


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One process at a time; the others wait. The lock file goes with the last of them; one that a killed process left
    locks nobody out."""
    while True:
        with open(lock, "a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_still(lock, handle.fileno()):  # the one before removed it while this one waited
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
