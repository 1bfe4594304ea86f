"""Where a cluster keeps its files, and which of its daemons live."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

from benchmark import ConfigError
from slurm.cluster.machine import node_name
from slurm.cluster.processes import Process

DAEMONS = ("guard", "slurmctld", "slurmd", "slurmdbd", "mariadbd")  # in the order in which they are stopped

# A Unix socket's path has at most 107 bytes (unix(7)); the longest below the folder is that of a job's batch step.
LONGEST_FOLDER = 107 - len(f"/spool/{node_name()}_1000000.4294967291")


@dataclass(frozen=True)
class Layout:
    """The files of one cluster below its folder."""

    folder: Path

    @classmethod
    def of(cls, folder: Path | str) -> Layout:
        """The layout below `folder`, as an absolute path. Raises ConfigError when the path cannot be used."""
        absolute = Path(folder).resolve()
        if len(str(absolute).encode()) > LONGEST_FOLDER:
            raise ConfigError(
                f"the cluster's folder {absolute} has a path of {len(str(absolute).encode())} bytes; "
                f"legal: at most {LONGEST_FOLDER}, because sockets are made in it. Take a shorter one, as /tmp/cluster."
            )
        if any(character.isspace() or character in "#%\"'" for character in str(absolute)):
            raise ConfigError(
                f"the cluster's folder '{absolute}' holds white space or one of # % \" ', which slurm.conf cannot "
                "name. Take another one, as /tmp/cluster."
            )
        return cls(absolute)

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def slurmdbd_conf(self) -> Path:
        return self.folder / "slurmdbd.conf"

    @property
    def description(self) -> Path:
        return self.folder / "cluster.json"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def database(self) -> Path:
        return self.folder / "mysql"

    @property
    def database_socket(self) -> Path:
        return self.run / "mysql.sock"

    def make(self) -> None:
        """The folders, each if it is not there."""
        for folder in (self.folder, self.state, self.spool, self.run, self.logs):
            folder.mkdir(parents=True, exist_ok=True)

    def record_of(self, daemon: str) -> Path:
        return self.run / f"{daemon}.json"

    def log_of(self, daemon: str) -> Path:
        return self.logs / f"{daemon}.log"

    def living(self) -> dict[str, Process]:
        """The daemons of this folder that run now, by name."""
        found = {daemon: Process.recorded(self.record_of(daemon)) for daemon in DAEMONS}
        return {daemon: process for daemon, process in found.items() if process is not None and process.alive}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One start or stop of this folder at a time; the lock goes with the process that holds it."""
        self.make()
        with open(self.run / "lock", "w") as file:
            flock(file, LOCK_EX)
            yield
