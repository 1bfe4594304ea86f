"""What this machine must have for a cluster: the rights and the programs."""

from __future__ import annotations

import os
import random
import shutil
import socket
import sys
from collections.abc import Collection
from pathlib import Path

from benchmark import EnvironmentProblem

_PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scontrol", "scancel")
_ACCOUNTING_PROGRAMS = ("slurmdbd", "sacctmgr", "sacct", "mariadbd", "mariadb", "mariadb-install-db")

# Daemons lie there, and a user's search path often does not name it.
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"

# What a surrounding Slurm job or a user's defaults would change in commands and daemons of this cluster.
_FOREIGN = ("SLURM", "SRUN_", "SBATCH_", "SALLOC_", "SCANCEL_", "SQUEUE_", "SINFO_", "SACCT_", "SUBMITIT_")


def search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}"


def clean_environment() -> dict[str, str]:
    """This process's environment without what belongs to another Slurm, with a search path that finds daemons."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, "PATH": search_path()}


def why_not(accounting: bool = False) -> str | None:
    """Why no cluster can be started here, in one sentence with the fix; None when it can."""
    if not sys.platform.startswith("linux"):
        return f"Slurm's daemons run on Linux only, this is {sys.platform}: use a container"
    wanted = (*_PROGRAMS, *(_ACCOUNTING_PROGRAMS if accounting else ()))
    missing = [name for name in wanted if shutil.which(name, path=search_path()) is None]
    if missing:
        script = Path(__file__).parents[1] / "install_debian.sh"
        return (
            f"not installed: {', '.join(missing)}. As root: {script}{' --accounting' if accounting else ''}"
            " (Debian, Ubuntu)"
        )
    if os.geteuid() != 0:
        return "the one-node Slurm is started as root: use sudo or a container"
    return None


def check(accounting: bool) -> None:
    """Raises EnvironmentProblem when no cluster can be started here."""
    reason = why_not(accounting)
    if reason is not None:
        raise EnvironmentProblem(f"no one-node Slurm on this machine: {reason}")


def node_name() -> str:
    """This machine's short name, by which Slurm's daemons recognise themselves in slurm.conf."""
    return socket.gethostname().split(".")[0]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of a daemon just stopped is free
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def free_port(taken: Collection[int]) -> int:
    """A free TCP port outside of `taken`, below the range that the kernel gives to outgoing connections.

    Raises EnvironmentProblem when 200 tries find none.
    """
    chance = random.SystemRandom()
    for _ in range(200):
        port = chance.randrange(20_000, 32_000)
        if port not in taken and is_free(port):
            return port
    raise EnvironmentProblem("no free TCP port between 20000 and 31999: look at what listens there with: ss -ltnp")
