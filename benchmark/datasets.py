"""What is read from disk: named sets of files below the data root, how they are checked, and how they get there.

Tasks and networks declare their data sets; the suite checks all that a study reads before anything is planned, and
`bnnbench data` lists, fetches and verifies them. Nothing but `bnnbench data prepare` ever downloads.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmark.environ import environment_of
from benchmark.errors import CorruptFile, EnvironmentProblem
from benchmark.files import read_json, write_json

DATA_ROOT = "BNNBENCH_DATA"
DEFAULT_ROOT = Path("data")
SHOWN = 5
"""Problems of one data set that an error lists."""
_typed: str | None = None
"""The data root of `--data-root`."""


class MissingData(EnvironmentProblem):
    """Data that a study reads are not there, or not whole. The text names paths, what is missing and the command."""


def data_root() -> Path:
    """The folder of all data sets: `BNNBENCH_DATA`, which `--data-root` sets, else `data` in the current folder."""
    return Path(os.environ.get(DATA_ROOT) or DEFAULT_ROOT).absolute()


def set_data_root(path: str | Path) -> None:
    """For this process and its children. A folder that the environment does not name already was typed by somebody,
    and belongs into the commands that messages name."""
    global _typed
    root = str(Path(path).absolute())
    before = os.environ.get(DATA_ROOT)
    if before is None or os.path.abspath(before) != os.path.abspath(root):
        _typed = root
    os.environ[DATA_ROOT] = root


@contextmanager
def reading_from(root: Path) -> Iterator[None]:
    """Data are looked for below another root, in this process and its children, for the time being."""
    with environment_of({DATA_ROOT: str(root)}):
        yield


def prepare_command(*names: str) -> str:
    """What a user types to bring data sets into place, for messages: `bnnbench data prepare NAME...`, followed by
    `--data-root DIR` where this command was given one."""
    root = [f"--data-root {shlex.quote(_typed)}"] if _typed and os.environ.get(DATA_ROOT) == _typed else []
    return " ".join(["bnnbench data prepare", *names, *root])


def user_cache() -> Path:
    """This user's folder on this machine for what can be found out again; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bnnbench"


class DataSet(ABC):
    """Files below the data root that belong together. Instances are cheap: they name files and read none.

    name: as in `bnnbench data prepare NAME`; letters, digits, '.', '_' and '-'.
    title: what it is, in one line. source: who made it, and where it is from, for people.
    size: bytes on disk when prepared, about. download: bytes that `prepare` fetches, 0 where it only works on files
    that the user has put there, as `manual` says how. by_hand: nothing can bring the files but the user, so that no
    message names `prepare`; `manual` says what to do.
    """

    name: str
    title: str
    source: str
    size: int
    download: int = 0
    manual: str = ""
    by_hand: bool = False

    @abstractmethod
    def folder(self, root: Path) -> Path:
        """Where its files are."""

    def paths(self, root: Path) -> Sequence[Path]:
        """The files and folders that are this data set's alone, from which is told whether something of it is there and
        how much room it still needs. Its folder, unless it shares that with others."""
        return [self.folder(root)]

    @abstractmethod
    def problems(self, root: Path) -> Sequence[str]:
        """What is missing or has the wrong size, one line each with the path looked at; empty when all is well. Fast:
        asks the file system and reads no content (called whenever a study is planned)."""

    @abstractmethod
    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        """As `problems`, from the content of every file: checksums, and that it can be read. May take long; `say` tells
        how far it is."""

    @abstractmethod
    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        """Bring the files into place: download, unpack, index. What is there and whole is kept; a file is complete or
        not there at all, also when this is killed.

        Raises:
            MissingData: the files cannot be fetched; says how to get them.
        """

    def damaged(self, root: Path) -> Sequence[Path]:
        """Files that `problems` finds nothing wrong with, and that published checksums say are not what they should be.
        `bnnbench data prepare NAME` moves them aside, to NAME.damaged, and `prepare` then fetches them. Reads them
        all. None for data without checksums, where `verify` says what to remove."""
        return ()

    @abstractmethod
    def fingerprint(self, root: Path) -> str:
        """A hex digest of what the data are, wherever they lie; for a task's fingerprint. Fast: see `digest_of`."""


def check_data(sets: Iterable[DataSet]) -> None:
    """Refuse to go on when one of the data sets is not whole.

    Raises:
        MissingData: lists all of them, the paths looked at, what is missing and the command that mends it.
    """
    root, wanted = data_root(), {each.name: each for each in sets}
    faults = {name: found for name, each in sorted(wanted.items()) if (found := list(each.problems(root)))}
    if not faults:
        return
    lines = []
    for name, found in faults.items():
        lines.append(f"{name} ({wanted[name].title}), looked for in {wanted[name].folder(root)}:")
        lines += [f"    {line}" for line in found[:SHOWN]]
        lines += [f"    ... {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        lines += [f"    {wanted[name].manual}"] if wanted[name].manual else []
    default = "" if os.environ.get(DATA_ROOT) else f" (the default; {DATA_ROOT} or --data-root names another)"
    names = [name for name in faults if not wanted[name].by_hand]
    lines += [f"To mend it: {prepare_command(*names)}"] if names else []
    raise MissingData(f"data are missing below the data root {root}{default}.\n  " + "\n  ".join(lines))


def fingerprint_of(sets: Iterable[DataSet], *settings: str) -> str:
    """A hex digest of several data sets and of the texts that say how they are used; for `Task.fingerprint`."""
    root = data_root()
    parts = [f"{each.name} {each.fingerprint(root)}" for each in sorted(sets, key=lambda each: each.name)]
    return hashlib.sha256("\n".join([*parts, *settings]).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, hex. Remembered in the user's cache, so that a file of unchanged size and time of change is
    read once."""
    status = path.stat()
    key, state = str(path.absolute()), [status.st_size, status.st_mtime_ns]
    kept = _known_digests()
    if kept.get(key, [])[:2] != state:
        with open(path, "rb") as handle:
            kept[key] = [*state, hashlib.file_digest(handle, "sha256").hexdigest()]
        with suppress(OSError, EnvironmentProblem):  # a cache that cannot be written costs time and nothing else
            _cache().parent.mkdir(parents=True, exist_ok=True)
            write_json(_cache(), kept, durable=False)
    return str(kept[key][2])


def _cache() -> Path:
    return user_cache() / "digests.json"


def _known_digests() -> dict[str, list[Any]]:
    try:
        found = read_json(_cache())
    except (OSError, CorruptFile):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in entries if isinstance(value, list) and len(value) == 3}
