"""Killed at any point by `kill -9`, and run again: the same bits as if nothing had happened, and nothing left over."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from reliability_cases import Bench, alive, files_of, numbers_of, outcomes, specs_of

POINTS_OF_THE_CHILD = (
    "load train",
    "fit begins",
    "before checkpoint 1",
    "after checkpoint 1",
    "before checkpoint 7",
    "after checkpoint 12",
    "before posterior.bin",
    "before fit.json",
    "before predictions.npz",
    "load test",
    "before evaluation.json",
)

CHECKPOINTS = ["checkpoint/00000011", "checkpoint/00000012"]
BEFORE_RUN = ["operation.json", "spec.json"]


def listed(run: Any) -> list[str]:
    """The files of a run, checkpoints without the digests in their names."""
    return [name.split("-")[0] if name.startswith("checkpoint/") else name for name in files_of(run)]


@pytest.mark.parametrize("victim", ["child", "worker"])
@pytest.mark.parametrize("point", POINTS_OF_THE_CHILD)
def test_a_run_killed_anywhere_ends_as_if_undisturbed(
    bench: Bench, undisturbed: dict[str, Any], point: str, victim: str
) -> None:
    run = bench.folder(specs_of()[0])
    bench.ask(point)
    worker = bench.worker(run)
    child = bench.at(point)
    assert child != worker.pid, "phases run in a process of their own"
    if victim == "child":
        os.kill(child, signal.SIGKILL)
        assert worker.join() == 1
        assert run.state().name == "killed"
        assert run.state().retriable
    else:
        assert worker.kill() == -signal.SIGKILL
        assert run.state().name == "lost"
    assert_gone(child)
    bench.go_on(point)
    assert bench.worker(run).join() == 0
    assert numbers_of(run) == undisturbed
    assert outcomes(run) == ["killed" if victim == "child" else "-", "ok"]
    assert run.state().detail["attempts"] == 2
    assert not [name for name in files_of(run) if name.endswith((".tmp", ".new"))]


@pytest.mark.parametrize("step", ["score", "result.json", "outcome.json"])
def test_a_worker_killed_around_its_result_ends_as_if_undisturbed(
    bench: Bench, undisturbed: dict[str, Any], step: str
) -> None:
    run = bench.folder(specs_of()[0])

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def patch() -> None:
        from benchmark import worker
        from benchmark.runfolder import RunFolder

        if step == "score":
            worker.publish = die
        elif step == "result.json":
            RunFolder.publish = die  # type: ignore[method-assign]
        else:
            worker._Supervisor.finish = die  # type: ignore[method-assign]

    assert bench.worker(run, patch).join() == -signal.SIGKILL
    if step == "outcome.json":
        assert run.state().name == "ok"
        assert bench.worker(run).join() == 3
        assert outcomes(run) == ["-"]
    else:
        assert run.state().name == "lost"
        assert bench.worker(run).join() == 0
        assert outcomes(run) == ["-", "ok"]
    assert numbers_of(run) == undisturbed


def test_a_worker_killed_before_its_first_phase_is_taken_over(bench: Bench, undisturbed: dict[str, Any]) -> None:
    run = bench.folder(specs_of()[0])
    bench.ask("start")
    worker = bench.worker(run)
    assert bench.at("start") == worker.pid
    assert run.state().name == "running"
    worker.kill()
    assert run.state().name == "lost"
    bench.go_on("start")
    assert bench.worker(run).join() == 0
    assert numbers_of(run) == undisturbed


def test_train_seconds_hold_the_work_that_was_lost(bench: Bench) -> None:
    run = bench.folder(specs_of({"tiny_sgd": {"sleep": 0.15}})[0], checkpoint_seconds=3600)
    bench.ask("before checkpoint 10")
    worker = bench.worker(run)
    bench.at("before checkpoint 10")
    worker.kill()
    bench.go_on("before checkpoint 10")
    assert bench.worker(run).join() == 0
    result = run.result()
    assert result is not None
    # 12 steps of 0.15 s, and of the 9 that were lost what the last heartbeat (0.5 s, then as long again) knew.
    assert result["metrics"]["train_seconds"]["value"] > 12 * 0.15 + 0.5


def test_the_files_of_a_run_at_every_stage(bench: Bench) -> None:
    run = bench.folder(specs_of()[0])
    assert files_of(run) == BEFORE_RUN
    stages = {
        "start": ["heartbeat", "log.txt"],
        "load train": ["env.json", "heartbeat", "log.txt"],
        "after checkpoint 12": ["env.json", "heartbeat", "log.txt", "progress.json"],
        "before fit.json": ["env.json", "heartbeat", "log.txt", "progress.json"],
        "before predictions.npz": ["env.json", "fit.json", "heartbeat", "log.txt", "progress.json"],
        "before evaluation.json": ["env.json", "fit.json", "heartbeat", "log.txt", "progress.json"],
    }
    products: dict[str, list[str]] = {
        "start": [],
        "load train": [],
        "after checkpoint 12": [*CHECKPOINTS, "history.jsonl"],
        "before fit.json": [*CHECKPOINTS, "history.jsonl", "posterior.bin"],
        "before predictions.npz": [*CHECKPOINTS, "history.jsonl", "fit.json", "posterior.bin"],
        "before evaluation.json": [*CHECKPOINTS, "history.jsonl", "fit.json", "posterior.bin", "predictions.npz"],
    }
    for point in stages:
        bench.ask(point)
    worker = bench.worker(run)
    for point, attempt in stages.items():
        bench.at(point)
        expected = sorted([*BEFORE_RUN, *products[point], *(f"attempts/0001/{name}" for name in attempt)])
        assert (point, listed(run)) == (point, expected)
        bench.go_on(point)
    assert worker.join() == 0
    attempt = ["env.json", "evaluate.json", "fit.json", "heartbeat", "log.txt", "outcome.json", "progress.json"]
    kept = [name for name in products["before evaluation.json"] if name not in CHECKPOINTS]  # saved states have served
    last = [*kept, "evaluation.json", "result.json"]
    assert listed(run) == sorted([*BEFORE_RUN, *last, *(f"attempts/0001/{name}" for name in attempt)])


def test_a_posterior_that_loses_digits_keeps_its_predictions_from_before(bench: Bench) -> None:
    run = bench.folder(specs_of("tiny_rounded")[0])
    assert bench.worker(run).join() == 0
    assert run.file("before.npz").exists()
    assert "history.jsonl" not in files_of(run)
    assert run.state().detail["metrics"]["delta_nll_decode"]["value"] != 0


def assert_gone(pid: int) -> None:
    from reliability_cases import wait_for

    wait_for(lambda: not alive(pid), f"process {pid} to die with its parent", 10)
