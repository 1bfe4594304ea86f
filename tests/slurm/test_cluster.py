"""The one-node cluster on the real Slurm: jobs run, clusters leave each other alone, nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import pytest

from benchmark import EnvironmentProblem
from slurm.cluster import Cluster, one_node_cluster, start, status, stop
from slurm.cluster.processes import Process, wait_for

ROOT = Path(__file__).parents[2]
without_accounting = pytest.mark.parametrize("slurm_cluster", [False], indirect=True)


@pytest.fixture
def folder(slurm_folder: Path) -> Path:
    return slurm_folder


def submit(cluster: Cluster, *options: str, command: str = "true") -> str:
    log = cluster.layout.folder / "job-%j.log"
    done = cluster.run("sbatch", "--parsable", f"--output={log}", *options, "--wrap", command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state_of(cluster: Cluster, job: str) -> str:
    said = cluster.run("squeue", "--states=all", "--noheader", "--format=%i %T").stdout
    return dict(line.split() for line in said.splitlines()).get(job, "absent")


def reaches(cluster: Cluster, job: str, state: str, limit_s: float = 20.0) -> bool:
    return wait_for(lambda: state_of(cluster, job) == state, limit_s, every_s=0.2)


def halves(line: str) -> tuple[str, str, str]:
    return line.partition("=")


def rows_of(cluster: Cluster, job: str) -> str:
    return cluster.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State,ExitCode").stdout


def kill_all(cluster: Cluster) -> None:
    """Every daemon by SIGKILL at once."""
    for process in status(cluster.layout.folder).values():
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
    for daemon in cluster._daemons:
        daemon.child.wait()


def left_of(folder: Path) -> list[str]:
    """Processes, other than zombies, that name the folder in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and Process.of(int(entry.name)):
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"{folder}/".encode() in words or f"{folder}\0".encode() in words:
                found.append(f"{entry.name} {words[:60]!r}")
    return found


def test_a_trivial_job_completes(slurm_cluster: Cluster) -> None:
    job = submit(slurm_cluster, command="echo hello from $SLURM_JOB_ID; srun echo a step")

    assert reaches(slurm_cluster, job, "COMPLETED")
    assert (slurm_cluster.layout.folder / f"job-{job}.log").read_text() == f"hello from {job}\na step\n"

    if slurm_cluster.description.accounting:
        assert wait_for(lambda: rows_of(slurm_cluster, job) == f"{job}|COMPLETED|0:0\n", 10, every_s=0.5)
    else:
        said = slurm_cluster.run("sacct", "-j", job)
        assert (said.returncode, "accounting storage is disabled" in said.stderr) == (1, True)


def test_partitions_and_preemption_are_as_the_tests_of_the_launcher_need_them(slurm_cluster: Cluster) -> None:
    said = slurm_cluster.run("scontrol", "show", "config").stdout
    config = {key.strip(): value.strip() for key, equals, value in map(halves, said.splitlines()) if equals}
    assert (config["PreemptType"], config["PreemptMode"]) == ("preempt/partition_prio", "REQUEUE")
    assert config["SlurmctldParameters"] == "preempt_send_user_signal"
    assert (config["JobRequeue"], config["MaxArraySize"]) == ("1", "1001")
    assert (config["KillWait"], config["MinJobAge"]) == ("5 sec", "30 sec")

    low = slurm_cluster.run("scontrol", "show", "partition", "-o", "low").stdout.split()
    high = slurm_cluster.run("scontrol", "show", "partition", "-o", "high").stdout.split()
    assert {"Default=YES", "PriorityTier=1", "GraceTime=20", "PreemptMode=REQUEUE", "State=UP"} <= set(low)
    assert {"Default=NO", "PriorityTier=10", "GraceTime=0", "State=UP"} <= set(high)


@without_accounting
def test_two_clusters_at_the_same_time_do_not_disturb_each_other(slurm_cluster: Cluster, folder: Path) -> None:
    with one_node_cluster(folder) as other:
        assert other.description.name != slurm_cluster.description.name
        assert set(other.description.ports.values()).isdisjoint(slurm_cluster.description.ports.values())

        held = submit(slurm_cluster, "--hold")
        done = submit(other)
        assert reaches(other, done, "COMPLETED")
        assert "PENDING" not in other.run("squeue").stdout
        assert state_of(slurm_cluster, held) == "PENDING"

    slurm_cluster.run("scontrol", "release", held)  # munged, which they share, is still there
    assert reaches(slurm_cluster, held, "COMPLETED")


def test_stop_leaves_no_process_even_of_jobs_that_hide(folder: Path) -> None:
    cluster = start(folder)
    job = submit(cluster, command="trap '' TERM; setsid sleep 600 & srun sleep 600")
    assert reaches(cluster, job, "RUNNING")
    assert len(left_of(folder)) > 3

    cluster.stop()

    assert left_of(folder) == []
    assert stop(folder) is False
    rmtree(folder)


def test_a_running_job_is_cancelled_by_stop_and_a_pending_one_kept(folder: Path) -> None:
    cluster = start(folder)
    running = submit(cluster, command="sleep 600")
    held = submit(cluster, "--hold")
    assert reaches(cluster, running, "RUNNING")
    cluster.stop()

    with one_node_cluster(folder) as again:
        assert state_of(again, held) == "PENDING"
        assert reaches(again, running, "CANCELLED")


def test_after_kill_9_of_all_daemons_the_cluster_starts_again_with_its_queue(folder: Path) -> None:
    cluster = start(folder)
    held = submit(cluster, "--hold")
    assert wait_for((cluster.layout.state / "job_state").exists, 20)  # slurmctld saves its queue a little later
    kill_all(cluster)
    assert not any(status(folder).values())

    again = start(folder)

    assert again.description.name == cluster.description.name
    assert state_of(again, held) == "PENDING"
    again.run("scontrol", "release", held)
    assert reaches(again, held, "COMPLETED")
    again.stop()


def test_accounting_survives_kill_9_of_all_daemons(folder: Path, require_slurm: Callable[[bool], None]) -> None:
    require_slurm(True)
    cluster = start(folder, accounting=True)
    job = submit(cluster)
    assert reaches(cluster, job, "COMPLETED")
    assert wait_for(lambda: rows_of(cluster, job) == f"{job}|COMPLETED|0:0\n", 10, every_s=0.5)
    kill_all(cluster)

    again = start(folder, accounting=True)

    assert rows_of(again, job) == f"{job}|COMPLETED|0:0\n"
    again.stop()
    assert left_of(folder) == []


def test_a_cluster_ends_with_the_program_that_started_it_even_when_that_is_killed(folder: Path) -> None:
    text = (
        "import sys, time\nfrom slurm.cluster import one_node_cluster\n"
        "with one_node_cluster(sys.argv[1]):\n    print('up', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", text, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        owner.kill()

    assert wait_for(lambda: not left_of(folder), 20, every_s=0.5), left_of(folder)
    assert not any(status(folder).values())


def test_a_daemon_that_does_not_come_up_is_reported_with_its_log_and_nothing_stays(folder: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"slurmctld ended with status 1(?s:.*)select/nonsense"):
        start(folder, settings={"SelectType": "select/nonsense"})
    assert left_of(folder) == []


def test_a_running_cluster_is_not_started_twice(folder: Path) -> None:
    with one_node_cluster(folder), pytest.raises(EnvironmentProblem, match=r"runs in .* already \(.*slurmctld \d+"):
        start(folder)


def test_settings_reach_the_controller(folder: Path) -> None:
    with one_node_cluster(folder, settings={"KillWait": "30", "SlurmctldParameters": None}) as cluster:
        said = cluster.run("scontrol", "show", "config").stdout
        assert "KillWait                = 30 sec" in said
        assert "preempt_send_user_signal" not in said


def test_the_command_line_starts_shows_and_stops_it(folder: Path) -> None:
    def command(verb: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "slurm.cluster", verb, "--dir", str(folder)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert command("status").returncode == 2
    assert "runs in" in command("start").stdout
    assert "slurmctld  running, pid" in command("status").stdout
    in_shell = ["sh", "-c", command("env").stdout + "sinfo --noheader --format=%P%T"]
    assert subprocess.run(in_shell, capture_output=True, text=True, check=True).stdout == "low*idle\nhighidle\n"
    assert command("stop").stdout == "stopped\n"
    assert command("stop").stdout == f"nothing of a cluster runs in {folder}\n"
    assert (command("status").returncode, left_of(folder)) == (1, [])
