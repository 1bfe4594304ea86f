"""`bnnbench doctor`: each check says what it found and how to mend it, none stops another, and the exit code counts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.main import main
from benchmark.doctor import cluster, machine, packages, software, storage
from benchmark.doctor.finding import Check, Finding, examine
from benchmark.registry import Registry, load_plugin_file

BROKEN = Path(__file__).parent / "plugins" / "broken.py"
NO_GPU: dict[str, Any] = {"build": None, "driver": None, "usable": False, "why": "", "hidden": False, "gpus": []}
DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01"
Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tmpfs with options."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs needs privileges")
        return folder

    yield mounted
    subprocess.run(["umount", "-l", folder], capture_output=True)


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """PATH holds these shell scripts alone."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def by_topic(findings: Any) -> dict[str, Finding]:
    return {finding.topic: finding for finding in findings}


def test_this_machine_is_examined_and_torch_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of the packages, two: importing all of them takes long."""
    monkeypatch.setattr(packages.importlib.metadata, "requires", lambda _name: ["click>=8", "torch>=2.11"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BNNBENCH_DATA", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json", "--results", str(tmp_path / "results")])
    report = json.loads(capfd.readouterr().out)
    findings = {each["topic"]: each for each in report["findings"]}
    assert ended.value.code == (0 if report["well"] else 3)
    assert report["well"] == all(each["state"] != "missing" for each in report["findings"])
    for package in ("torch", "click"):
        assert (findings[package]["state"], findings[package]["text"]) == ("well", version(package))
    assert findings["python"]["state"] == findings["bnnbench"]["state"] == findings["results"]["state"] == "well"
    assert f"{tmp_path / 'data'} (the default" in findings["data root"]["text"]
    assert "methods" in findings["plugins"]["text"]
    assert {"cuda", "slurm", "clock", "disk", "temporary", "memory"} <= set(findings)
    assert list(tmp_path.iterdir()) == [], "looking leaves nothing behind"


def test_the_first_lines_need_no_torch() -> None:
    script = (
        "import sys; from pathlib import Path; from benchmark.doctor.checks import CHECKS; "
        "from benchmark.doctor.finding import examine; names = [check.topic for check in CHECKS]; "
        "found = list(examine(CHECKS[: names.index('plugins')], Path('/tmp'))); "
        "sys.exit('torch' in sys.modules or len(found) < 8)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_check_that_raises_or_hangs_is_a_line_of_its_own() -> None:
    def raises(_results: Path) -> list[Finding]:
        raise RuntimeError("no such file system")

    def hangs(_results: Path) -> Iterator[Finding]:
        yield Finding("slow", "well", "begun")
        time.sleep(30)

    checks = [Check("odd", raises), Check("slow", hangs, seconds=0.2), Check("python", software.python)]
    begun = time.monotonic()
    found = list(examine(checks, Path()))
    assert time.monotonic() - begun < 10
    assert [(each.topic, each.state) for each in found] == [
        ("odd", "doubtful"),
        ("slow", "well"),
        ("slow", "missing"),
        ("python", "well"),
    ]
    assert "RuntimeError: no such file system" in found[0].text
    assert "no answer within 0.2 s" in found[2].text


@pytest.mark.parametrize(("state", "code"), [("well", 0), ("optional", 0), ("doubtful", 0), ("missing", 3)])
def test_only_what_is_missing_changes_the_exit_code(
    state: Any, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    check = Check("disk", lambda _results: [Finding("disk", state, "1 MB free", "free some space")])
    monkeypatch.setattr("benchmark.doctor.checks.CHECKS", (check,))
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    out = capfd.readouterr().out
    assert ended.value.code == code
    assert out.splitlines()[:2] == [f"{state:<8}  disk           1 MB free", " " * 25 + "to mend: free some space"]
    assert ("1 to mend: disk." in out) == (code == 3)


def test_no_slurm_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(tmp_path / "bin", monkeypatch)
    (found,) = cluster.slurm(tmp_path)
    assert found.state == "optional"
    assert "login node" in found.mend


@pytest.mark.parametrize(
    ("ping", "state", "words"),
    [
        ("echo 'Slurmctld(primary) at head is UP'", "well", ["slurm 23.11.4", "at head is UP"]),
        ("echo 'Slurmctld(primary) at head is DOWN'", "missing", ["no controller answers", "DOWN"]),
        ("echo 'cannot resolve head' >&2; exit 1", "missing", ["`scontrol ping`", "exit status 1", "cannot resolve"]),
    ],
)
def test_slurm_is_well_when_its_controller_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ping: str, state: str, words: list[str]
) -> None:
    rest = dict.fromkeys(("squeue", "sacct", "scancel"), "exit 0")
    commands(tmp_path / "bin", monkeypatch, sbatch="echo slurm 23.11.4", scontrol=ping, **rest)
    (found,) = cluster.slurm(tmp_path)
    assert found.state == state
    for word in words:
        assert word in found.text


def test_an_unconfigured_slurm_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = "echo 'sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host' >&2; exit 1"
    rest = {name: "true" for name in cluster.COMMANDS if name not in ("sbatch", "scontrol")}
    commands(tmp_path / "bin", monkeypatch, sbatch=failing, scontrol=failing, **rest)
    (found,) = cluster.slurm(tmp_path)
    assert found.state == "optional"
    assert "belongs to no cluster" in found.text


def test_half_a_slurm_names_the_other_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(tmp_path / "bin", monkeypatch, sbatch="exit 0", squeue="exit 0")
    (found,) = cluster.slurm(tmp_path)
    assert found.state == "missing"
    assert f"sbatch, squeue found in {tmp_path / 'bin'}, and no sacct, scancel, scontrol" in found.text


def test_a_full_results_folder_is_missing_with_the_way_out(mount: Mount) -> None:
    folder = mount("size=64k")
    (folder / "filler").write_bytes(bytes(60 * 1024))
    (found,) = storage.results(folder)
    assert (found.state, "disk or the quota is full" in found.text) == ("missing", True)
    assert "--results (BNNBENCH_RESULTS)" in found.mend
    assert [path.name for path in folder.iterdir()] == ["filler"]


def test_a_results_folder_to_be_made_on_a_read_only_disk_is_missing(mount: Mount) -> None:
    folder = mount("ro") / "results"
    (found,) = storage.results(folder)
    assert found.state == "missing"
    assert found.text == f"{folder} (to be made): not writable (Read-only file system)"


def test_little_room_is_doubtful_and_none_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {}
    for free in (1e12, 1e9, 1e6):
        monkeypatch.setattr(storage, "free_bytes", lambda _path, free=free: free)
        states[free] = by_topic(storage.results(tmp_path))["disk"].state
    assert states == {1e12: "well", 1e9: "doubtful", 1e6: "missing"}


@pytest.mark.parametrize(("skew", "state"), [(0.0, "well"), (10.0, "doubtful"), (-10.0, "doubtful"), (90.0, "missing")])
def test_a_clock_that_differs_from_the_file_systems_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float, state: str
) -> None:
    now = time.time
    monkeypatch.setattr(storage.time, "time", lambda: now() + skew)
    clock = by_topic(storage.results(tmp_path))["clock"]
    assert clock.state == state
    assert f"{abs(skew):.1f} s apart" in clock.text


def test_the_file_system_is_that_of_the_longest_mount_point(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    inner = str(tmp_path / "my results").replace(" ", "\\040")
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\nfast {inner} lustre rw 0 0\n")
    (tmp_path / "my results").mkdir()
    assert storage.file_system_of(Path("/usr"), mounts) == "ext4"
    assert storage.file_system_of(tmp_path, mounts) == "nfs4"
    assert storage.file_system_of(tmp_path / "my results", mounts) == "lustre"


def test_a_temporary_folder_too_long_for_sockets_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setattr(storage.tempfile, "tempdir", str(folder))
    (found,) = storage.temporary(tmp_path)
    assert (found.state, "too many for sockets" in found.text, "TMPDIR" in found.mend) == ("missing", True, True)


def test_a_data_root_that_is_a_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").touch()
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path / "data"))
    (found,) = storage.data(tmp_path)
    assert (found.state, "--data-root" in found.mend) == ("missing", True)


def test_a_broken_plugin_is_named_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: Registry[Any] = Registry("task", "no.such.group", "benchmark.contracts:Task")
    monkeypatch.setattr("benchmark.registry.TASKS", tasks)
    load_plugin_file(BROKEN)
    broken, summary = software.plugins(Path())
    assert broken.state == "missing"
    assert f"task 'forgotten' from {BROKEN}:Forgotten (--plugin): TypeError: Can't instantiate abstract" in broken.text
    assert "0 tasks" in summary.text


def test_a_library_that_crashes_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashing.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    (tmp_path / "raising.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    (tmp_path / "talking.py").write_text("print('hello')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines = [line for line in packages.probed(["crashing", "raising", "talking"]) if "importing" not in line]
    assert [next(iter(line.items())) for line in lines] == [
        ("failed", "crashing"),
        ("failed", "raising"),
        ("imported", "talking"),
    ]
    assert "SIGSEGV" in lines[0]["error"]
    assert lines[1]["error"] == "ImportError: libcudart.so.13: cannot open shared object file"


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({}, "optional", ["no NVIDIA driver", "runs use the CPU"]),
        ({"build": "13.0", "hidden": True}, "optional", ["CUDA_VISIBLE_DEVICES hides"]),
        ({"driver": DRIVER}, "missing", ["470.82.01", "without CUDA", "pip install --force-reinstall torch"]),
        (
            {"build": "13.0", "driver": DRIVER, "why": "The NVIDIA driver on your system is too old (found 11040)."},
            "missing",
            ["built for CUDA 13.0", "too old", "update the NVIDIA driver"],
        ),
        ({"build": "13.0", "driver": DRIVER}, "missing", ["no GPU answers", "nvidia-smi", "--gpus all"]),
    ],
)
def test_why_there_is_no_gpu(change: dict[str, Any], state: str, words: list[str]) -> None:
    (found,) = packages.gpus({**NO_GPU, **change})
    assert found.state == state
    for word in words:
        assert word in found.text + found.mend


def test_gpus_are_told_with_memory_and_capability() -> None:
    gpu = {"name": "H200", "memory": 139 * 2**30, "free": 100 * 2**30, "capability": [9, 0], "error": None}
    old = {**gpu, "name": "K80", "capability": [3, 7], "error": "no kernel image is available"}
    cuda = {**NO_GPU, "build": "13.0", "usable": True, "gpus": [gpu, old], "architectures": ["sm_80", "sm_90"]}
    _, first, second = packages.gpus(cuda)
    assert (first.state, first.text) == ("well", "H200, 139.0 GiB (100.0 free), compute capability 9.0")
    assert (second.state, "no kernel image" in second.text) == ("missing", True)
    assert "built for sm_80, sm_90; install one for sm_37" in second.mend


def test_an_old_or_absent_package_is_told_with_its_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["rich>=99", "no-such-package>=1", "click>=8", "cupid>=2; extra == 'love'"]
    monkeypatch.setattr(packages.importlib.metadata, "requires", lambda _name: needed)
    found = by_topic(packages.packages(Path()))
    assert (found["rich"].state, found["rich"].mend) == ("missing", "pip install 'rich>=99'")
    assert (found["no-such-package"].state, found["no-such-package"].text) == ("missing", "not installed")
    assert found["click"].state == "well"
    assert "cupid" not in found


def test_limits_of_control_groups_are_read_up_the_tree(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/job/step\n")
    step = tmp_path / "fs" / "job" / "step"
    step.mkdir(parents=True)
    (step / "memory.max").write_text("max\n")
    (step / "cpu.max").write_text("max 100000\n")
    (step.parent / "memory.max").write_text("4294967296\n")
    (step.parent / "memory.current").write_text("1073741824\n")
    (step.parent / "cpu.max").write_text("150000 100000\n")
    assert machine.memory_limit(tmp_path / "fs", own) == (4 * 2**30, 2**30)
    assert machine.cpu_quota(tmp_path / "fs", own) == 1.5


def test_a_terminal_without_the_tables_symbols_is_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Ascii())
    (found,) = machine.text_output(Path())
    assert (found.state, "PYTHONUTF8=1" in found.mend) == ("doubtful", True)
