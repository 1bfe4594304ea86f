"""A process that stops a cluster when the program that started it dies, however it dies.

Started by `one_node_cluster` as `python -m slurm.cluster.guard FOLDER PID STARTED`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from slurm.cluster.daemons import MARK, Daemon, spawn
from slurm.cluster.layout import Layout
from slurm.cluster.processes import Process


def watch(layout: Layout) -> Daemon:
    """Starts the guard of this folder's cluster for this process."""
    owner = Process.of(os.getpid())
    assert owner is not None  # it is this process
    return spawn(
        [sys.executable, "-m", "slurm.cluster.guard", layout.folder, str(owner.pid), str(owner.started)],
        log=layout.log_of("guard"),
        record=layout.record_of("guard"),
        environment={MARK: str(layout.folder), "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def main(folder: str, pid: str, started: str) -> None:
    """Returns when the owner is gone and its cluster stopped."""
    from slurm.cluster.lifecycle import stop

    owner = Process(int(pid), int(started))
    while owner.alive:
        time.sleep(1.0)
    stop(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
