"""Launchers: two at once, interrupted, killed; and equal results whatever executes the runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reliability_cases import Bench, numbers_of, outcomes, run_main, specs_of, wait_for

FLAGS = ["--task", "tiny", "--network", "tinynet", "--draws", "4"]
LOCAL = ["--launcher", "local: {latency: 'off', workers: 2, checkpoint_seconds: 0}"]
INLINE = ["--launcher", "inline: {latency: 'off', checkpoint_seconds: 0}"]


def command(bench: Bench, *flags: str) -> subprocess.Popen[str]:
    """`bnnbench ...` as a shell starts it: a program of its own, in a process group of its own."""
    program = str(Path(sys.executable).with_name("bnnbench"))
    return subprocess.Popen(
        [program, *bench.arguments(flags)],
        env={**os.environ, **bench.env()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_two_launchers_at_once_execute_every_run_once(bench: Bench) -> None:
    """Runs that end well and runs that fail; the second launcher waits for what the first one holds."""
    flags = ["run", *FLAGS, "--method", "tiny_sgd: {base: true}", "--method", "tiny_sgd", "--seeds", "3", *LOCAL]
    launchers = [command(bench, *flags) for _ in range(2)]
    outputs = [launcher.communicate(timeout=120)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    specs = specs_of({"tiny_sgd": {"base": True}}, "tiny_sgd", seeds=3)
    assert {spec.label for spec in specs} == {"tiny_base", "tiny_sgd base=true", "tiny_sgd"}
    assert {spec.id: outcomes(bench.store.folder(spec.id)) for spec in specs} == {spec.id: ["ok"] for spec in specs}


def test_two_inline_launchers_execute_a_failing_run_once(bench: Bench) -> None:
    flags = ["run", *FLAGS, "--method", "tiny_bad", "--method", "tiny_sgd", *INLINE]
    bench.ask("load train")
    first = bench.launch(*flags)
    bench.at("load train")
    second = bench.launch(*flags)
    bench.go_on("load train")
    assert (first.join(), second.join()) == (1, 1)
    assert sorted(outcomes(bench.store.folder(name)) for name in bench.store.ids()) == [["failed"], ["ok"]]


def test_ctrl_c_saves_and_the_next_run_goes_on(bench: Bench, undisturbed: dict[str, Any]) -> None:
    """SIGINT to the launcher's whole process group, as a terminal sends it."""
    flags = ["run", *FLAGS, "--method", "tiny_sgd", *LOCAL]
    bench.ask("before checkpoint 7")
    launcher = command(bench, *flags)
    bench.at("before checkpoint 7")
    os.killpg(launcher.pid, signal.SIGINT)
    run = bench.store.folder(specs_of()[0].id)
    lines = [launcher.stdout.readline(), launcher.stdout.readline()] if launcher.stdout else []
    assert "1 run to do" in lines[0]
    assert "asked to save" in lines[1]
    bench.go_on("before checkpoint 7")
    output = "".join([*lines, launcher.communicate(timeout=60)[0]])
    assert launcher.returncode == 130, output
    assert "Traceback" not in output
    assert "Start the same command again to go on" in output
    assert (run.state().name, run.state().detail["type"]) == ("killed", "Interrupted")
    assert run.state().detail["message"].startswith("Stopped on request")
    assert bench.launch("run", *FLAGS, "--method", "tiny_sgd", *INLINE).join() == 0
    assert numbers_of(run) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_inline_launch_stops_after_saving(bench: Bench, undisturbed: dict[str, Any], number: int) -> None:
    flags = ["run", *FLAGS, "--method", "tiny_sgd", "--seeds", "2", *INLINE]
    bench.ask("before checkpoint 7")
    launcher = bench.launch(*flags)
    bench.at("before checkpoint 7")
    os.killpg(launcher.pid, number)
    wait_for(lambda: number_pending(launcher.pid) == 0, "the signal to be delivered")
    bench.go_on("before checkpoint 7")
    assert launcher.join() == 130
    first, second = (bench.store.folder(spec.id) for spec in specs_of(seeds=2))
    assert second.state().name == "new", "the second run was not started"
    assert first.state().name == "killed"
    assert first.state().detail["type"] == "Interrupted"
    assert bench.launch(*flags).join() == 0
    assert numbers_of(first) == undisturbed


def number_pending(pid: int) -> int:
    """Signals that wait for delivery to a process, as a mask."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("ShdPnd:"):
            return int(line.split()[1], 16)
    return 0


def test_workers_outlive_their_launcher(bench: Bench, undisturbed: dict[str, Any]) -> None:
    bench.ask("before checkpoint 7")
    launcher = command(bench, "run", *FLAGS, "--method", "tiny_sgd", *LOCAL)
    bench.at("before checkpoint 7")
    launcher.kill()
    launcher.wait(timeout=30)
    run = bench.store.folder(specs_of()[0].id)
    assert run.state().name == "running"
    bench.go_on("before checkpoint 7")
    wait_for(lambda: run.state().name == "ok", "the worker to finish by itself")
    assert numbers_of(run) == undisturbed
    assert bench.launch("run", *FLAGS, "--method", "tiny_sgd", *INLINE).join() == 0
    assert len(run.attempts()) == 1


def test_inline_and_local_and_another_folder_give_equal_numbers(
    bench: Bench, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bench.env().items():
        monkeypatch.setenv(name, value)
    assert run_main(bench.arguments(["run", *FLAGS, "--method", "tiny_sgd", *LOCAL])) == 0
    assert numbers_of(bench.store.folder(specs_of()[0].id)) == undisturbed
    other = Bench(bench.root / "other")
    assert other.launch("run", *FLAGS, "--method", "tiny_sgd", *INLINE).join() == 0
    assert numbers_of(other.store.folder(specs_of()[0].id)) == undisturbed


def test_a_time_limit_ends_as_timeout_and_the_next_run_goes_on(bench: Bench) -> None:
    entry = "tiny_sgd: {steps: 40, sleep: 0.05}"
    flags = ["run", *FLAGS, "--method", entry]
    limited = "inline: {latency: 'off', checkpoint_seconds: 0, time_limit_seconds: 0.7}"
    codes = [bench.launch(*flags, "--launcher", limited).join()]
    run = bench.store.folder(bench.store.ids()[0])
    assert (codes, run.state().name) == ([1], "timeout")
    assert not run.state().retriable
    assert bench.launch(*flags, *INLINE).join() == 0
    assert outcomes(run) == ["timeout", "ok"]
    steps = [json.loads(line)["step"] for line in run.file("history.jsonl").read_text().splitlines()]
    assert steps == list(range(40))


def test_a_run_whose_folder_cannot_be_used_does_not_stop_the_others(bench: Bench) -> None:
    first, second = specs_of(seeds=2)
    bench.folder(first)
    (bench.store.folder(first.id).path / "attempts").write_text("in the way")
    assert bench.launch("run", *FLAGS, "--method", "tiny_sgd", "--seeds", "2", *INLINE).join() == 1
    assert bench.store.folder(second.id).state().name == "ok"
    assert "Traceback" not in (bench.root / "console.txt").read_text()


def test_a_run_made_afresh_counts_only_its_own_seconds(bench: Bench, undisturbed: dict[str, Any]) -> None:
    flags = ["run", *FLAGS, "--method", "tiny_sgd: {sleep: 0.05}", *INLINE]
    assert bench.launch(*flags).join() == 0
    run = bench.store.folder(bench.store.ids()[0])
    first = run.result()
    assert bench.launch(*flags, "--rerun", "all").join() == 0
    second = run.result()
    assert first is not None
    assert second is not None
    assert second["attempts"] == 1
    assert second["metrics"]["train_seconds"]["extra"]["attempts"] == 1
    assert second["metrics"]["train_seconds"]["value"] < 1.8 * first["metrics"]["train_seconds"]["value"]
    archived = run.attempts()[0] / "products"
    assert (archived / "result.json").exists()
    assert (archived / "history.jsonl").read_bytes() == run.file("history.jsonl").read_bytes()
