"""The environment of scheduler commands and jobs: no traces of a job around us, and everything back afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.environment import is_removed, scrub, scrubbed

INSIDE_A_JOB = {
    "SLURM_CONF": "/etc/slurm/slurm.conf",
    "SLURM_MEM_PER_NODE": "4096",
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURMD_NODENAME": "node3",
    "SRUN_DEBUG": "3",
    "SBATCH_PARTITION": "debug",
    "SUBMITIT_FOLDER": "/outer",
    "SUBMITIT_PREEMPT_SIGNAL": "USR1",
    "RANK": "3",
    "MASTER_ADDR": "node3",
    "SLURMISH": "not ours",
    "RANKING": "not ours",
    "MY_SLURM_VAR": "not ours",
}
LEFT = {"SLURM_CONF", "SUBMITIT_PREEMPT_SIGNAL", "SLURMISH", "RANKING", "MY_SLURM_VAR"}


def test_only_the_traces_of_a_job_are_removed() -> None:
    assert set(scrub(INSIDE_A_JOB)) == LEFT
    assert set(scrub(INSIDE_A_JOB, keep=["SLURM_MEM_*", "RANK"])) == LEFT | {"SLURM_MEM_PER_NODE", "RANK"}


def test_a_command_inside_sees_the_clean_environment_and_everything_is_back_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in INSIDE_A_JOB.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with scrubbed():
        shown = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.environ)"], capture_output=True, text=True, check=True
        )
        assert set(shown.stdout.split()) & set(INSIDE_A_JOB) == LEFT
        os.environ["SUBMITIT_EXECUTOR"] = "slurm"
        os.environ["SLURM_ARRAY_TASK_ID"] = "8"
    assert dict(os.environ) == before


def test_an_exception_inside_restores_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with contextlib.suppress(RuntimeError), scrubbed():
        assert "SLURM_JOB_ID" not in os.environ
        raise RuntimeError
    assert os.environ["SLURM_JOB_ID"] == "12"


@given(st.sampled_from(["SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_"]), st.text("ABCXYZ_", min_size=1))
def test_every_name_of_the_families_is_removed_unless_kept(family: str, rest: str) -> None:
    name = family + rest
    assert is_removed(name)
    assert not is_removed(name, keep=[name])
    assert not is_removed(f"X{name}")
