"""Downloads and archives, for `bnnbench data prepare` alone: a file gets its name when it is complete."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import socket
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from benchmark import MissingData
from tasks.whole_files import alone, flush, make_folder, require_room, write_whole

PATIENCE = 60.0
"""Seconds without an answer after which a server counts as not reachable."""
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
BROKEN = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error)
"""What Python's readers raise for half an archive."""


class _Refused(Exception):
    """What was fetched or unpacked is not to get its name; the text says why."""


def fetch(urls: Sequence[str], target: Path, md5: str, say: Callable[[str], None], manual: str) -> None:
    """Download `target` from the first of `urls` that gives a file with this checksum; kept when it is there already.

    Raises:
        MissingData: none of them does. The text holds what each said, and `manual`.
        EnvironmentProblem: it cannot be written.
    """
    from torchvision.datasets.utils import check_integrity

    if check_integrity(target, md5):
        return
    make_folder(target.parent)
    failures = []
    for url in urls:
        say(f"downloading {url}")
        try:
            write_whole(target, _download(url, md5))
        except _Refused as error:
            failures.append(f"{url}: {error}")
        else:
            return
    raise MissingData(f"{target} cannot be downloaded:\n  " + "\n  ".join([*failures, manual]))


def gunzip(source: Path, target: Path, check: Callable[[Path], str | None]) -> str | None:
    """Unpack one .gz file. Returns what is wrong with it, None when all went well.

    check: what is wrong with the unpacked file, None when nothing is; before it gets its name.
    """

    def unpack(temporary: Path) -> None:
        try:
            with gzip.open(source, "rb") as packed, open(temporary, "wb") as out:
                shutil.copyfileobj(packed, out)
        except BROKEN as error:
            raise _Refused(f"{source}: not a whole gzip file ({error})") from error
        if fault := check(temporary):
            raise _Refused(f"{source}: {fault}")

    try:
        write_whole(target, unpack)
    except _Refused as error:
        return str(error)
    return None


def untar(archive: Path, folder: str, root: Path) -> str | None:
    """Take the files of `folder` out of an archive into `root/folder`. Returns what is wrong with it, if anything.

    Unpacked beside its place and moved there file by file; nothing of the archive may leave the folder. One process at
    a time; what a killed one left is cleared by the next.

    Raises:
        EnvironmentProblem: there is not enough room.
    """
    beside = root / f".{folder}.unpacking"
    with alone(root / f".{folder}.lock"):
        _clear(beside)
        try:
            with tarfile.open(archive) as packed:
                members = [member for member in packed if member.isfile() and Path(member.name).parts[:1] == (folder,)]
                require_room(root, sum(member.size for member in members), f"unpacking {archive}")
                beside.mkdir()
                packed.extractall(beside, members, filter="data")
            (root / folder).mkdir(exist_ok=True)
            for member in members:
                if len(Path(member.name).parts) == 2:
                    flush(beside / member.name)
                    os.replace(beside / member.name, root / member.name)
        except BROKEN as error:
            return f"{archive}: not a whole archive ({error})"
        finally:
            _clear(beside)
    return None if members else f"{archive}: holds no folder {folder}"


def _download(url: str, md5: str) -> Callable[[Path], None]:
    def write(temporary: Path) -> None:
        from torchvision.datasets.utils import download_url

        try:
            with _patience():
                download_url(url, temporary.parent, temporary.name, md5)
        except (OSError, RuntimeError, HTTPException) as error:  # URLError and time-outs are OSErrors
            if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                raise
            raise _Refused(str(error)) from error

    return write


def _clear(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


@contextmanager
def _patience() -> Iterator[None]:
    """torchvision waits for a silent server for ever unless sockets have a time-out."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
