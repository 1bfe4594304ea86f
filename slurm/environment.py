"""What scheduler commands and jobs inherit: the environment without the traces of a job around us.

A sweep started from inside a job (an interactive node, a notebook) would hand that job's memory, cores, array index and
ranks to the jobs that it submits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

REMOVED = (
    "SLURM_*",
    "SLURMD_*",
    "SRUN_*",
    "SBATCH_*",
    "SUBMITIT_*",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
)
KEPT = (
    "SLURM_CONF",  # where the commands find their cluster
    "SUBMITIT_PREEMPT_SIGNAL",  # the user's choice; jobs must agree with the process that submits them
)


def is_removed(name: str, keep: Sequence[str] = ()) -> bool:
    """Whether a variable of that name is a trace of a job. keep: further names to leave alone, with * and ?."""
    return any(fnmatchcase(name, pattern) for pattern in REMOVED) and not any(
        fnmatchcase(name, pattern) for pattern in (*KEPT, *keep)
    )


def scrub(environment: Mapping[str, str], keep: Sequence[str] = ()) -> dict[str, str]:
    """A copy without the variables of a job around us, for the `env` of a subprocess."""
    return {name: value for name, value in environment.items() if not is_removed(name, keep)}


@contextmanager
def scrubbed(keep: Sequence[str] = ()) -> Iterator[None]:
    """This process's environment without the variables of a job around us; as before afterwards.

    Variables of those names that appear inside (submitit sets some) are gone afterwards. Other variables are not
    touched. The environment belongs to the whole process: no other thread should start commands meanwhile.
    """
    before = {name: value for name, value in os.environ.items() if is_removed(name, keep)}
    _remove(keep)
    try:
        yield
    finally:
        _remove(keep)
        os.environ.update(before)


def _remove(keep: Sequence[str]) -> None:
    for name in [name for name in os.environ if is_removed(name, keep)]:
        del os.environ[name]
