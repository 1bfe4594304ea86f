"""Whatever a method does becomes a row, and costs the other runs nothing."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from reliability_cases import Bench, alive, outcomes, run_main, specs_of, wait_for

ENDINGS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "raise": ("failed", "ValueError", "a bug of the method, with an umlaut: ü", {}),
    "sys_exit": ("failed", "SystemExit", "sys.exit(0)", {}),
    "os_exit": ("failed", "SystemExit", "exit status 0 and without a result", {}),
    "segfault": ("failed", "SIGSEGV", "crashed with SIGSEGV", {}),
    "abort": ("failed", "SIGABRT", "crashed with SIGABRT", {}),
    "sigkill": ("killed", "SIGKILL", "killed by SIGKILL", {}),
    "one_absurd_tensor": ("oom", "RuntimeError", "memory", {}),
    "eat_memory": ("oom", "MemoryError", "MemoryError", {"memory_limit_gib": 1.5}),
    "eat_tensors": ("oom", "RuntimeError", "memory", {"memory_limit_gib": 1.5}),
    "diverge": ("diverged", "Diverged", "the loss is NaN in step 3", {}),
    "miss_package": ("skipped", "MissingPackage", "pip install 'bnnbench[bad]'", {}),
    "not_for_this_network": ("skipped", "NotApplicable", "it knows: mlp", {}),
    "nan": ("diverged", "Diverged", "NaN", {}),
    "wrong_type": ("failed", "PluginError", "returned a dict; its posterior_type() says PointMass", {}),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_misbehaving_method_leaves_a_full_record(bench: Bench, how: str) -> None:
    status, kind, message, operation = ENDINGS[how]
    run = bench.folder(specs_of({"tiny_bad": {"how": how}})[0], **operation)
    assert bench.worker(run).join() == 1
    state = run.state()
    assert (state.name, state.detail["type"], state.detail["phase"]) == (status, kind, "fit")
    assert message in state.detail["message"]
    assert state.retriable == (how == "sigkill")
    log = (run.attempts()[-1] / "log.txt").read_text(encoding="utf-8")
    assert "last words on standard output" in log or how in ("os_exit", "segfault", "abort", "sigkill")
    assert any("last words on standard error" in line for line in state.detail["last_lines"]) or len(log) > 1500
    assert state.detail["seconds"] > 0
    bench.mended.touch()
    assert bench.worker(run).join() == 0
    assert outcomes(run) == [status, "ok"]


def test_a_method_that_ignores_the_stop_is_killed_after_the_grace(bench: Bench) -> None:
    run = bench.folder(specs_of({"tiny_bad": {"how": "hang"}})[0], grace_seconds=0.3)
    bench.ask("hanging")
    worker = bench.worker(run)
    child = bench.at("hanging")
    bench.go_on("hanging")
    begun = time.monotonic()
    assert worker.kill(signal.SIGTERM) == 1
    assert time.monotonic() - begun < 15
    assert (run.state().name, run.state().detail["type"]) == ("killed", "SIGKILL")
    assert "did not save within the grace period" in run.state().detail["message"]
    assert not alive(child)


def test_a_run_over_its_time_limit_is_a_timeout(bench: Bench) -> None:
    run = bench.folder(specs_of({"tiny_bad": {"how": "hang"}})[0], grace_seconds=0.2, time_limit_seconds=2.0)
    assert bench.worker(run).join() == 1
    assert run.state().name == "timeout"
    assert "time limit of 2 s" in run.state().detail["message"]


def test_helpers_that_a_method_leaves_behind_are_ended(bench: Bench) -> None:
    run = bench.folder(specs_of({"tiny_bad": {"how": "leave_helper"}})[0])
    assert bench.worker(run).join() == 0
    helper = int((bench.pause / "helper.pid").read_text())
    wait_for(lambda: not alive(helper), "the helper to end", 10)


@pytest.mark.parametrize("how", ["change_folder", "chatter"])
def test_harmless_manners_do_no_harm(bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.root)
    bench.store.root = bench.store.root.relative_to(bench.root)
    bench.store.runs = bench.store.root / "runs"
    run = bench.folder(specs_of({"tiny_bad": {"how": how}})[0])
    assert bench.worker(run).join() == 0
    log = (run.attempts()[-1] / "log.txt").read_text()
    assert ("line 1999" in log) == (how == "chatter")
    assert not (bench.root / "console.txt").read_text(), "a method's output goes to its log alone"


def test_failures_are_rows_and_do_not_stop_the_others(bench: Bench) -> None:
    """The whole story of a study with failures: run, run again, mend, retry."""
    flags = ["--task", "tiny", "--network", "tinynet", "--draws", "4", "--launcher", "inline: {latency: 'off'}"]
    methods = ["--method", "tiny_bad: {how: [raise, segfault, diverge]}", "--method", "tiny_sgd: {base: [true, false]}"]
    run, retry = ["run", *flags, *methods], ["retry", "--failed", *flags[-2:]]
    env = {"TINY_BASE_FAILS": "1"}
    assert bench.launch(*run, env=env).join() == 1
    specs = specs_of({"tiny_bad": {"how": ["raise", "segfault", "diverge"]}}, {"tiny_sgd": {"base": [True, False]}})
    statuses = bench.store.statuses({spec.id: spec for spec in specs})

    def named() -> list[tuple[str, str]]:
        found = bench.store.statuses({spec.id: spec for spec in specs})
        return [(spec.label, found[spec.id].name) for spec in specs]

    failed = [
        ("tiny_bad how=raise", "failed"),
        ("tiny_bad how=segfault", "failed"),
        ("tiny_bad how=diverge", "diverged"),
        ("tiny_base", "failed"),
        ("tiny_sgd base=true", "skipped"),
        ("tiny_sgd base=false", "done"),
    ]
    assert named() == failed
    assert "needs tiny.tinynet.tiny_base" in statuses[specs[4].id].note
    console = (bench.root / "console.txt").read_text()
    assert "Traceback" not in console
    assert "bnnbench retry" in console

    assert bench.launch(*run, env=env).join() == 1
    assert [len(bench.store.folder(spec.id).attempts()) for spec in specs] == [1, 1, 1, 1, 0, 1], "code errors stay"

    bench.mended.touch()
    assert bench.launch(*retry, env=env).join() == 0
    assert [status for _, status in named()] == ["done"] * 6
    assert [len(bench.store.folder(spec.id).attempts()) for spec in specs] == [2, 2, 2, 2, 1, 1]


def test_the_local_queue_starts_a_killed_run_again_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bench.env().items():
        monkeypatch.setenv(name, value)
    flags = ["--task", "tiny", "--network", "tinynet", "--draws", "4", "--method", "tiny_bad: {how: sigkill}"]
    assert run_main(bench.arguments(["run", *flags, "--launcher", "local: {latency: 'off'}"])) == 1
    run = bench.store.folder(bench.store.ids()[0])
    assert outcomes(run) == ["killed", "killed"]
    assert os.environ["TINY_PAUSE"] == str(bench.pause)
