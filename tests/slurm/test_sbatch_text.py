"""The sbatch text: golden files per profile, equal to what submitit submits, without Slurm on the machine."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from submitit.slurm.slurm import SlurmExecutor, SlurmJobEnvironment
from submitit.slurm.test_slurm import mocked_slurm

from slurm.classes import JobClass
from slurm.minutes import margin_seconds
from slurm.profile import Profile
from slurm.profile_files import read_profile
from slurm.sbatch import sbatch_settings, sbatch_text

GOLDEN = Path(__file__).parent / "golden"
REFRESH = "BNNBENCH_REFRESH_GOLDEN"
EXAMPLES = Path(__file__).parents[2] / "slurm/profiles"
FOLDER = Path("/shared/results/launches/20260102-030405")

SITE = Profile(
    partition="boost_usr_prod",
    account="0123",
    qos="long",
    constraint="a100&ib",
    gpu_option="gpus_per_node",
    gpu_type="a100",
    margin_s=300,
    signal="USR1",
    srun_args=("--mpi=none",),
    setup=("module load cuda/12.4", 'export DATA="$SCRATCH/my data"'),
    python="singularity exec --nv 'my image.sif' python",
    mail_type="END,FAIL",
    mail_user="me@example.org",
    additional_parameters={"exclude": "node[1-3]", "exclusive": True, "wckey": "project"},
)


def settings_for(profile: Profile, job_class: JobClass, parallel: int, after: tuple[str, ...] = ()) -> dict[str, Any]:
    margin = margin_seconds(job_class.minutes, wanted=profile.margin_s)
    return sbatch_settings(profile, job_class, "bnnbench-20260102-030405", parallel, margin, after)


def case(name: str) -> tuple[Profile, dict[str, Any], int]:
    """Profile, settings and number of jobs of a golden file."""
    if name == "cpu":
        profile = read_profile(EXAMPLES / "cpu.yaml")
        return profile, settings_for(profile, JobClass(0, 4, 8, 120), 64), 1001
    if name == "gpu":
        profile = read_profile(EXAMPLES / "gpu.yaml")
        return profile, settings_for(profile, JobClass(1, 8, 32, 360), 2, ("16", "17")), 3
    if name == "one_job":
        return Profile(), settings_for(Profile(), JobClass(0, 1, None, 5), 1), 1
    if name == "no_srun":
        profile = Profile(use_srun=False, margin_s=20)
        return profile, settings_for(profile, JobClass(0, 2, 1.5, 1), 1), 1
    return SITE, settings_for(SITE, JobClass(2, 16, 62.5, 1440), 8), 12


CASES = ("cpu", "gpu", "one_job", "no_srun", "site")


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_as_in_the_golden_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlurmJobEnvironment, "USR_SIG", "USR2")  # whoever runs the tests may have set another
    profile, settings, jobs = case(name)
    text = sbatch_text(settings, FOLDER, jobs, profile.python or "/opt/venv/bin/python")
    path = GOLDEN / f"{name}.sh"
    if os.environ.get(REFRESH):
        path.write_text(text, encoding="utf-8")
    golden = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text != golden:
        diff = "\n".join(difflib.unified_diff(golden.splitlines(), text.splitlines(), path.name, "now", lineterm=""))
        pytest.fail(f"{diff}\n\nIf this is meant: {REFRESH}=1 pytest {Path(__file__).name}", pytrace=False)


@pytest.mark.parametrize("name", CASES)
def test_submitit_submits_exactly_the_text_that_is_shown(name: str, tmp_path: Path) -> None:
    profile, settings, jobs = case(name)
    jobs = min(jobs, 3)
    with mocked_slurm():
        executor = SlurmExecutor(tmp_path / "a launch", python=profile.python)
        executor.update_parameters(**settings)
        with executor.batch():
            for index in range(jobs):
                executor.submit(print, f"runs/{index}")
    (written,) = (tmp_path / "a launch").glob("*_submission.sh")
    assert written.read_text() == sbatch_text(settings, tmp_path / "a launch", jobs, profile.python)


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_a_script_that_bash_can_read_and_starts_with_its_options(name: str) -> None:
    profile, settings, jobs = case(name)
    text = sbatch_text(settings, FOLDER, jobs, profile.python)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    lines = text.splitlines()
    last_option = max(index for index, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(not line or line.startswith("#") for line in lines[:last_option])  # sbatch reads no further
    names = [line.split("=")[0] for line in lines if line.startswith("#SBATCH")]
    assert len(names) == len(set(names))
    assert "None" not in text
    assert ("--wckey" in text) == ("wckey" in profile.additional_parameters)


def test_no_scheduler_command_is_needed_to_show_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert shutil.which("srun") is None
    assert "#SBATCH --array=0-2%2" in sbatch_text(case("gpu")[1], FOLDER, 3)


def test_the_setup_tells_the_job_its_limit_and_its_cores_before_the_sites_own_lines() -> None:
    _, settings, _ = case("site")
    assert settings["setup"] == [
        "export BNNBENCH_TIME_LIMIT_MIN=1440",
        "export OMP_NUM_THREADS=16",
        "export MKL_NUM_THREADS=16",
        "export PYTHONUNBUFFERED=1",
        "export SUBMITIT_PREEMPT_SIGNAL=USR1",
        "module load cuda/12.4",
        'export DATA="$SCRATCH/my data"',
    ]


def test_gpus_are_spelled_as_the_site_wants_and_not_at_all_for_runs_without() -> None:
    def options(number: int, **profile: Any) -> dict[str, Any]:
        settings = settings_for(Profile(**profile), JobClass(number, 1, None, 60), 1)
        return {name: settings[name] for name in ("gres", "gpus_per_node") if name in settings}

    assert options(2) == {"gres": "gpu:2"}
    assert options(1, gpu_type="a100") == {"gres": "gpu:a100:1"}
    assert options(4, gpu_option="gpus_per_node") == {"gpus_per_node": "4"}
    assert options(1, gpu_option="gpus_per_node", gpu_type="h200") == {"gpus_per_node": "h200:1"}
    assert options(0, gpu_type="a100") == {}
