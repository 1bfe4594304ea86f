"""Folders: data root and data sets, results, temporary files, and whether the clock agrees with the file system's."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmark.doctor.finding import Finding, State
from benchmark.errors import EnvironmentProblem
from benchmark.files import write_bytes
from benchmark.preparation import free_bytes, size_text, standing_of

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "lustre", "beegfs", "gpfs", "ceph", "glusterfs", "fuse.sshfs", "afs", "9p")
LITTLE, TOO_LITTLE = 2e9, 50e6
"""Free bytes at which a study may fail, and at which it will."""
MOST_SKEW, NOTED_SKEW = 30.0, 2.0
"""Seconds: a run without a sign of life for a minute counts as dead."""
LONGEST_TEMPORARY = 70
"""Characters: workers talk through sockets in there, whose paths the kernel limits to 107."""


def data(_results: Path) -> Iterator[Finding]:
    """The data root, and every data set of the installed tasks."""
    from benchmark.datasets import DATA_ROOT, data_root, prepare_command
    from benchmark.needed_data import known_data

    root = data_root()
    chosen = f"{root}{'' if os.environ.get(DATA_ROOT) else f' (the default; {DATA_ROOT} or --data-root names another)'}"
    if not root.exists():
        yield Finding("data root", "optional", f"{chosen}: not there yet", f"{prepare_command('NAME')} makes it")
    elif not root.is_dir():
        yield Finding("data root", "missing", f"{chosen}: it is a file", "name a folder by --data-root")
        return
    elif (trouble := _trouble_with_writing(root)) is not None:
        text = f"{chosen}: not writable ({trouble}); fine for reading"
        yield Finding("data root", "optional", text, "to fetch data, name another by --data-root")
    else:
        yield Finding("data root", "well", f"{chosen}, {size_text(free_bytes(root))} free")
    broken: list[str] = []
    for name, each in known_data(broken).items():
        standing = standing_of(each, root)
        if standing.state == "ok":
            yield Finding(f"data {name}", "well", f"{size_text(each.size)}  {standing.folder}")
        else:
            state: State = "optional" if standing.state == "missing" else "doubtful"
            first = "not there; its tasks need it" if standing.state == "missing" else standing.problems[0]
            manual = f"; {each.manual}" if each.manual else ""
            yield Finding(f"data {name}", state, f"{standing.state}: {first}", f"{prepare_command(name)}{manual}")
    for line in broken:
        yield Finding("data", "doubtful", line)


def results(folder: Path) -> Iterator[Finding]:
    """Can runs be written, claimed and published there? Tried with small files, which are removed again."""
    place = _existing(folder)
    where = f"{folder.absolute()}{'' if place == folder.absolute() else ' (to be made)'}"
    if (trouble := _trouble_with_writing(place)) is not None:
        mend = "free some space or mend the permissions, or name another folder by --results (BNNBENCH_RESULTS)"
        yield Finding("results", "missing", f"{where}: {trouble}", mend)
        return
    kind = file_system_of(place)
    shared = " (a network file system: fine, when all nodes see one clock)" if kind in NETWORK else ""
    yield Finding("results", "well", f"{where}: writable, files are created exclusively and renamed; {kind}{shared}")
    yield _room("disk", place)
    yield _clock(place)


def temporary(_results: Path) -> Iterator[Finding]:
    """The folder for temporary files."""
    folder = Path(tempfile.gettempdir())
    mend = "set TMPDIR to a short path with some space, such as /tmp"
    if (trouble := _trouble_with_writing(folder)) is not None:
        yield Finding("temporary", "missing", f"{folder}: {trouble}", mend)
    elif len(str(folder)) > LONGEST_TEMPORARY:
        text = f"{folder}: its path has {len(str(folder))} characters, too many for sockets in it"
        yield Finding("temporary", "missing", text, mend)
    else:
        yield _room("temporary", folder)


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system that holds an existing path (`ext4`, `nfs4`, ...); "unknown" where nobody tells."""
    best, kind = "", "unknown"
    with suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
            _, point, found, *_ = line.split()
            point = point.replace("\\040", " ")
            if path.resolve().is_relative_to(point) and len(point) >= len(best):
                best, kind = point, found
    return kind


def _trouble_with_writing(folder: Path) -> str | None:
    """What goes wrong when a file is made, claimed, replaced and removed in an existing folder; None: nothing does."""
    claim = folder / f".bnnbench-doctor-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            return "a file can be created exclusively twice: launchers would claim one run both; mount it otherwise"
        except FileExistsError:
            pass
        content = os.urandom(65536)
        write_bytes(claim, content)
        return None if claim.read_bytes() == content else "what is read is not what was written"
    except EnvironmentProblem:
        return "the disk or the quota is full"
    except OSError as error:
        return f"not writable ({error.strerror})"
    finally:
        with suppress(OSError):
            claim.unlink()


def _room(topic: str, place: Path) -> Finding:
    free, kind = free_bytes(place), file_system_of(place)
    text = f"{size_text(free)} free at {place} ({kind})"
    nodes = os.statvfs(place)
    if nodes.f_files and nodes.f_favail < 1000:
        return Finding(topic, "missing", f"{text}, and room for {nodes.f_favail} more files", "remove files")
    if free < LITTLE:
        return Finding(topic, "missing" if free < TOO_LITTLE else "doubtful", text, "free some space")
    return Finding(topic, "well", text)


def _clock(place: Path) -> Finding:
    """A file's time is that of the machine that keeps it, which other nodes share."""
    with tempfile.TemporaryDirectory(prefix=".bnnbench-doctor-", dir=place) as folder:
        file = Path(folder, "now")
        before = time.time()
        file.write_bytes(b"now")
        after = time.time()
        stamp = file.stat().st_mtime
    skew = max(before - stamp, stamp - after, 0.0)
    text = f"{skew:.1f} s apart from that of the results folder's file system"
    mend = "set the clocks by NTP (timedatectl set-ntp true), on this machine and the file server"
    if skew > MOST_SKEW:
        return Finding("clock", "missing", f"{text}: running runs would count as dead", mend)
    return Finding("clock", "doubtful", text, mend) if skew > NOTED_SKEW else Finding("clock", "well", text)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
