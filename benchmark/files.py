"""Files that are either whole or absent: atomic writes, canonical JSON, reading with a clear error."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.errors import CorruptFile, EnvironmentProblem

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def canonical_json(value: Any) -> str:
    """One text per value: keys sorted, no spaces, no NaN or Infinity. Raises ValueError on those and TypeError on
    what is not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_via(path: Path, write: Callable[[Path], None], *, durable: bool = True) -> None:
    """Let `write` fill a temporary neighbour of `path`, then rename it into place.

    A reader sees the old file or the new one, never a part. On any failure the neighbour is removed and `path`
    is untouched.

    Raises:
        EnvironmentProblem: the disk (or the quota) is full; names the path and the free bytes.
    """
    # Two machines may share the folder and the process number, two threads the process.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            with contextlib.suppress(OSError):  # some file systems cannot flush a folder
                _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if _is_disk_full(error):
            raise _disk_full(path) from error
        raise


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Atomically replace `path` by `data` (see `write_via`)."""
    write_via(path, lambda temporary: _write_all(temporary, data), durable=durable)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Atomically replace `path` by indented JSON (see `write_via`)."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, text.encode() + b"\n", durable=durable)


def read_json(path: Path) -> Any:
    """The JSON value in `path`.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: it is not JSON; names the path and the place.
    """
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CorruptFile(f"{path} is not valid JSON ({error}).") from error


def _write_all(path: Path, data: bytes) -> None:
    with open(path, "wb") as handle:
        handle.write(data)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    # safetensors wraps the operating system's error in its own exception type.
    return any(f"os error {number})" in str(error) for number in FULL)


def _disk_full(path: Path) -> EnvironmentProblem:
    try:
        stats = os.statvfs(path.parent)
        free = f"{stats.f_bavail * stats.f_frsize / 2**20:.1f} MiB free"
    except OSError:
        free = "free space unknown"
    return EnvironmentProblem(
        f"No room to write {path} ({free}). Nothing was half-written. Free some space, then start the same "
        "command again: finished runs are kept and interrupted ones go on."
    )
