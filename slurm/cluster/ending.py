"""Ending all that belongs to a cluster, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable

from slurm.cluster import munge
from slurm.cluster.daemons import MARK, answers
from slurm.cluster.layout import DAEMONS, Layout
from slurm.cluster.processes import Process, end, with_environment


def end_all(layout: Layout) -> bool:
    """Ends the daemons of this folder and its running jobs; whether there were any. The folder must be locked.

    Jobs are cancelled if the controller lives, and their processes killed. Raises EnvironmentProblem when a process
    outlives SIGKILL.
    """
    living = layout.living()
    guard = living.pop("guard", None)
    found = bool(living)
    if guard is not None and guard.pid != os.getpid():  # the guard itself stops a cluster whose owner died
        end([guard])
    if "slurmctld" in living:  # else the queue would hold jobs as running whose processes are ended below
        answers(["scancel", "--quiet", "--state=RUNNING"], {"SLURM_CONF": str(layout.slurm_conf)}, limit_s=5)
        _end_jobs(layout)
    for name, process in living.items():  # one after another: slurmctld waits for a slurmd that went before it
        # slurmd waits about 10 s for jobs that are gone already; it keeps nothing that a kill could damage.
        end([process], patience_s=1.0 if name == "slurmd" else 10.0)
    found |= _end_strays(layout)
    for name in DAEMONS:
        layout.record_of(name).unlink(missing_ok=True)
    munge.release(layout)
    return found


def _end_jobs(layout: Layout) -> bool:
    """Kills the processes of jobs. Slurm sets the second name for those only: a user's shell that speaks to this
    cluster lacks it."""
    return _kill(lambda: with_environment(f"SLURM_CONF={layout.slurm_conf}", also="SLURMD_NODENAME"))


def _end_strays(layout: Layout) -> bool:
    """Kills what daemons left behind: job steps, which outlive slurmd on purpose, and then the processes of jobs."""
    steps = _kill(lambda: with_environment(f"{MARK}={layout.folder}"))
    return _end_jobs(layout) or steps


def _kill(find: Callable[[], list[Process]]) -> bool:
    """Kills what `find` finds, until that is nothing; whether there was anything."""
    found = find()
    left = found
    for _ in range(20):  # more than once: one of them may have been starting another
        end(left, patience_s=0.0)
        left = find()
        if not left:
            break
    return bool(found)
