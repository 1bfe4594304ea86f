"""The text that sbatch gets, as submitit writes it, from a profile and a class of jobs.

The same settings go to `submitit.SlurmExecutor.update_parameters` when jobs are submitted, and to `sbatch_text` when
they are only shown; no Slurm is needed for the latter.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slurm.classes import JobClass
from slurm.profile import Profile

Settings = dict[str, Any]
"""Names and values of `submitit.SlurmExecutor.update_parameters`."""


def sbatch_settings(
    profile: Profile, job_class: JobClass, name: str, parallel: int, margin: int, after: Sequence[str] = ()
) -> Settings:
    """The settings of one array, all that matter spelled out: submitit's own defaults suit nobody.

    name: of the jobs in the queue. parallel: how many run at a time. margin: seconds before the limit at which the
    signal comes (`minutes.margin_seconds`). after: ids of jobs that have to end first.
    """
    return {
        "job_name": name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "wckey": None,  # submitit's default is refused where wckeys are checked; None writes no line
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": job_class.cpus,
        "mem": _memory(job_class.memory_gib),
        **_gpus(profile, job_class.gpus),
        "time": job_class.minutes,
        "signal_delay_s": margin,
        "array_parallelism": parallel,
        "dependency": "afterany:" + ":".join(after) if after else None,
        "mail_type": profile.mail_type,
        "mail_user": profile.mail_user,
        "setup": _setup(profile, job_class),
        "use_srun": profile.use_srun,
        # Since Slurm 22.05 srun does not take this over from sbatch: the step would run on one core.
        "srun_args": [f"--cpus-per-task={job_class.cpus}", *profile.srun_args],
        "additional_parameters": _additional(profile, margin),
    }


def sbatch_text(settings: Mapping[str, Any], folder: Path, jobs: int, python: str | None = None) -> str:
    """Exactly what submitit gives to sbatch for an array of `jobs` jobs; one job is no array.

    settings: of `sbatch_settings`. folder: where submitit keeps its files and logs. python: the profile's.
    """
    from submitit.slurm import slurm  # a fifth of a second

    folder = folder.expanduser().absolute()
    command = f"{python or shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    # Private to submitit; golden files pin what it writes. Its executor, which calls it, wants an srun to exist.
    return str(slurm._make_sbatch_string(command, folder, map_count=jobs if jobs > 1 else None, **settings))


def _setup(profile: Profile, job_class: JobClass) -> list[str]:
    """Shell lines of every job: ours first, so that the profile's may change them."""
    exports: dict[str, int | str] = {
        "BNNBENCH_TIME_LIMIT_MIN": job_class.minutes,  # no variable of Slurm tells a job when it will end
        "OMP_NUM_THREADS": job_class.cpus,
        "MKL_NUM_THREADS": job_class.cpus,
        "PYTHONUNBUFFERED": 1,
    }
    if profile.signal is not None:
        exports["SUBMITIT_PREEMPT_SIGNAL"] = profile.signal
    return [f"export {name}={value}" for name, value in exports.items()] + list(profile.setup)


def _additional(profile: Profile, margin: int) -> dict[str, Any]:
    """Options that submitit has no name for, and overrides of what it writes."""
    # A job saves itself and asks to be requeued; where the cluster's default is not to requeue, that is refused.
    options: dict[str, Any] = {"requeue": True}
    if profile.signal is not None:
        options["signal"] = f"{profile.signal}@{margin}"  # submitit read its signal when it was imported
    return options | profile.additional_parameters


def _gpus(profile: Profile, number: int) -> dict[str, str]:
    if not number:
        return {}
    spelled = f"{profile.gpu_type}:{number}" if profile.gpu_type else str(number)
    return {"gres": f"gpu:{spelled}"} if profile.gpu_option == "gres" else {"gpus_per_node": spelled}


def _memory(gib: float | None) -> str | None:
    """Slurm's G is 1024 M, and it takes no fractions."""
    if gib is None:
        return None
    return f"{gib:.0f}G" if gib == int(gib) else f"{math.ceil(gib * 1024)}M"
