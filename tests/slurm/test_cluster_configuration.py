"""What the one-node cluster decides before anything is started; no Slurm is needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmark import ConfigError, EnvironmentProblem
from slurm.cluster import Layout, attach, start, why_not
from slurm.cluster.configuration import describe, slurm_conf, write
from slurm.cluster.processes import Process, end

INSTALL = Path(__file__).parents[2] / "slurm" / "install_debian.sh"


def lines_of(layout: Layout, accounting: bool = False, **settings: str | None) -> list[str]:
    return slurm_conf(layout, describe(layout, accounting, settings)).splitlines()


def test_partition_high_pushes_jobs_out_of_low() -> None:
    lines = lines_of(Layout.of("/tmp/c"))
    assert {"PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE", "JobRequeue=1"} <= set(lines)
    assert [line.split()[0] for line in lines[-2:]] == ["PartitionName=low", "PartitionName=high"]
    assert "PriorityTier=1 GraceTime=20" in lines[-2]
    assert "PriorityTier=10" in lines[-1]


def test_a_setting_replaces_a_line_and_none_removes_it() -> None:
    lines = lines_of(Layout.of("/tmp/c"), KillWait="30", SlurmctldParameters=None, TrackWCKey="yes")
    assert {"KillWait=30", "TrackWCKey=yes"} <= set(lines)
    assert not any(line.startswith("SlurmctldParameters") or line == "KillWait=5" for line in lines)


def test_accounting_goes_to_a_database_daemon_of_its_own_port(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    cluster = describe(layout, True, {})
    assert f"AccountingStoragePort={cluster.ports['slurmdbd']}" in slurm_conf(layout, cluster)
    assert "AccountingStorageType=accounting_storage/none" in lines_of(layout)
    write(layout, cluster)
    assert layout.slurmdbd_conf.stat().st_mode & 0o777 == 0o600


def test_a_folder_keeps_its_name_and_ports_and_its_kind(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    first = describe(layout, False, {})
    write(layout, first)
    second = describe(layout, False, {"KillWait": "30"})
    assert (second.name, second.ports, second.settings) == (first.name, first.ports, {"KillWait": "30"})
    with pytest.raises(ConfigError, match=r"was made without accounting; legal: to start it without it again"):
        describe(layout, True, {})


@pytest.mark.parametrize(("folder", "why"), [("/tmp/" + "x" * 90, "legal: at most"), ("/tmp/a b", "white space")])
def test_folders_that_slurm_cannot_use_are_refused(folder: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Layout.of(folder)


def test_a_folder_without_a_cluster_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no cluster in .*python -m slurm\.cluster start --dir"):
        attach(tmp_path)


def test_missing_programs_are_named_with_the_script_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.cluster.machine.search_path", lambda: str(tmp_path))
    assert "slurmctld" in str(why_not())
    assert str(why_not(accounting=True)).endswith(f"As root: {INSTALL} --accounting (Debian, Ubuntu)")
    with pytest.raises(EnvironmentProblem, match="not installed: munged"):
        start(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_number_that_another_process_has_now_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        now = Process.of(other.pid)
        assert now is not None
        end([Process(now.pid, now.started - 1)])
        assert other.poll() is None
        end([now])
        assert other.wait() == -15


def test_a_process_that_ignores_the_request_is_killed() -> None:
    words = ["sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        process = Process.of(stubborn.pid)
        assert process is not None
        end([process], patience_s=0.3)
        assert stubborn.wait() == -9


def test_the_installer_refuses_what_it_does_not_know() -> None:
    done = subprocess.run([INSTALL, "--acounting"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "install_debian.sh: unknown argument '--acounting'; legal: --accounting\n",
    )
