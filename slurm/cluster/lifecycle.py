"""The life of a one-node cluster: start, status, stop."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import strftime

from benchmark import EnvironmentProblem
from slurm.cluster import munge
from slurm.cluster.accounting import start_database, start_slurmdbd
from slurm.cluster.configuration import Description, describe, read, write
from slurm.cluster.daemons import MARK, Daemon, answers, spawn
from slurm.cluster.ending import end_all
from slurm.cluster.guard import watch
from slurm.cluster.layout import DAEMONS, Layout
from slurm.cluster.machine import check, clean_environment
from slurm.cluster.processes import Process

_FIX = "Stop the cluster (python -m slurm.cluster stop --dir FOLDER) and start it in another folder."


@dataclass
class Cluster:
    """A running cluster.

    environment: what a process needs besides its own environment to speak to this cluster.
    """

    layout: Layout
    description: Description
    _daemons: list[Daemon] = field(default_factory=list, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.layout.slurm_conf)}

    def run(self, *command: str | Path, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs a command against this cluster and returns what it said, whatever its exit status.

        timeout: seconds; raises subprocess.TimeoutExpired after that.
        """
        return subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**clean_environment(), **self.environment},
            check=False,
        )

    def stop(self) -> None:
        """Ends all of this cluster's daemons and cancels its running jobs; its folder, with logs and queue, stays."""
        stop(self.layout.folder)
        for daemon in self._daemons:
            daemon.child.wait()


def start(folder: Path | str, accounting: bool = False, settings: Mapping[str, str | None] | None = None) -> Cluster:
    """Starts a cluster in `folder`, which is made if it is not there; returns when its node takes jobs.

    A cluster that ran there before goes on with its queue. settings: lines of slurm.conf that are set or, with None,
    left out, as {"KillWait": "30"}. Raises EnvironmentProblem when programs or rights are missing, when one runs in
    the folder, or when a daemon does not come up, and then leaves nothing running; ConfigError for a folder that
    cannot be used.
    """
    return _start(folder, accounting, settings or {}, guarded=False)


def attach(folder: Path | str) -> Cluster:
    """The cluster that was started in `folder` before. Raises ConfigError when there is none."""
    layout = Layout.of(folder)
    return Cluster(layout, read(layout))


def stop(folder: Path | str) -> bool:
    """Ends the daemons of the cluster in `folder` and its running jobs, which are cancelled; whether there were any.

    What is ended is known by number and start time, or carries this folder's mark in its environment. The folder stays.
    """
    layout = Layout.of(folder)
    if not layout.folder.exists():
        return False
    with layout.locked():
        return end_all(layout)


def status(folder: Path | str) -> dict[str, Process | None]:
    """The daemons that the cluster in `folder` should have, with their process if they run; the guard is not shown."""
    layout = Layout.of(folder)
    accounting = read(layout).accounting
    living = layout.living()
    wanted = [name for name in DAEMONS if name != "guard" and (accounting or name not in ("slurmdbd", "mariadbd"))]
    return {name: living.get(name) for name in wanted}


@contextmanager
def one_node_cluster(
    folder: Path | str, accounting: bool = False, settings: Mapping[str, str | None] | None = None
) -> Iterator[Cluster]:
    """A cluster while the block runs; it ends with the block, and with this process even when that is killed.

    Arguments and errors are those of `start`.
    """
    cluster = _start(folder, accounting, settings or {}, guarded=True)
    try:
        yield cluster
    finally:
        cluster.stop()


def _start(folder: Path | str, accounting: bool, settings: Mapping[str, str | None], guarded: bool) -> Cluster:
    check(accounting)
    layout = Layout.of(folder)
    with layout.locked():
        living = layout.living()
        if living:
            shown = ", ".join(f"{name} {process.pid}" for name, process in living.items())
            raise EnvironmentProblem(
                f"a cluster runs in {layout.folder} already ({shown}). Use it, or stop it with: "
                f"python -m slurm.cluster stop --dir {layout.folder}"
            )
        cluster = Cluster(layout, describe(layout, accounting, settings))
        write(layout, cluster.description)
        try:
            if guarded:
                cluster._daemons.append(watch(layout))
            _start_daemons(cluster)
        except BaseException:
            end_all(layout)
            for daemon in cluster._daemons:
                daemon.child.wait()
            raise
    return cluster


def _start_daemons(cluster: Cluster) -> None:
    layout, started = cluster.layout, cluster._daemons
    environment = {**cluster.environment, MARK: str(layout.folder)}
    munge.hold(layout)
    if cluster.description.accounting:
        started.append(start_database(layout, cluster.description, environment))
        started.append(start_slurmdbd(layout, cluster.description, environment))
    began = strftime("%Y-%m-%dT%H:%M:%S")
    for name in ("slurmctld", "slurmd"):
        daemon = spawn(
            [name, "-D", "-f", layout.slurm_conf],
            log=layout.logs / f"{name}.out",
            record=layout.record_of(name),
            environment=environment,
        )
        started.append(daemon)
    controller, node = started[-2:]
    controller.wait_until(lambda: answers(["scontrol", "ping"], environment) is not None, 60, _FIX)
    node.wait_until(lambda: _takes_jobs(environment, began), 60, _FIX)


def _takes_jobs(environment: Mapping[str, str], began: str) -> bool:
    """Whether the node's slurmd of now has registered: the controller knows a state from an earlier life as well."""
    said = answers(["scontrol", "show", "node", "--oneliner"], environment) or ""
    shown = dict(word.partition("=")[::2] for word in said.split())
    state, since = shown.get("State", "UNKNOWN"), shown.get("SlurmdStartTime", "None")
    # Times of one form compare as text. `*` marks a node that does not respond.
    return since != "None" and since >= began and "*" not in state and not state.startswith(("DOWN", "UNKNOWN"))
