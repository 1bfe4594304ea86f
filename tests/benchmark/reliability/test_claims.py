"""Who may work on a run: one process at a time, taken over by one, and never by one that was replaced."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from reliability_cases import Bench, Child, files_of, numbers_of, outcomes, specs_of, wait_for

from benchmark import runfolder
from benchmark.runfolder import RunFolder, read_heartbeat, write_heartbeat

RACERS = 12
ROUNDS = 25


def dead_attempt(run: RunFolder, number: int) -> None:
    """A claim of a process that is gone."""
    attempt = run.path / "attempts" / f"{number:04d}"
    attempt.mkdir(parents=True)
    write_heartbeat(attempt, {"phase": "fit"})
    beat = read_heartbeat(attempt)
    (attempt / "heartbeat").write_text(json.dumps({**beat, "pid": 2**22 + 1}))


@pytest.mark.parametrize("stale", [False, True])
def test_exactly_one_of_many_racing_processes_wins_a_claim(bench: Bench, stale: bool) -> None:
    """Each racer claims in round after round and says so; a winner holds on to its claim until all have tried."""
    runs = [bench.folder(spec) for spec in specs_of(seeds=ROUNDS)]
    if stale:
        for run in runs:
            dead_attempt(run, 1)
    gate = bench.root / "gate"
    gate.mkdir()

    def race(racer: int) -> int:
        for number, run in enumerate(runs):
            wait_for(lambda number=number: (gate / str(number)).exists(), "the start")
            if run.claim() is not None:
                (gate / f"won {number} {racer}").touch()
            (gate / f"tried {number} {racer}").touch()
        wait_for((gate / "home").exists, "the end")
        return 0

    racers = [bench.child(lambda racer=racer: race(racer)) for racer in range(RACERS)]
    for number, run in enumerate(runs):
        (gate / str(number)).touch()
        wait_for(lambda number=number: len(list(gate.glob(f"tried {number} *"))) == RACERS, "all racers")
        assert len(list(gate.glob(f"won {number} *"))) == 1
        assert len(run.attempts()) == (2 if stale else 1)
    (gate / "home").touch()
    assert [racer.join() for racer in racers] == [0] * RACERS


def test_a_slow_look_does_not_win_a_second_claim(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that judged the run lost just before another took it over collides with that one's attempt."""
    run = bench.folder(specs_of()[0])
    dead_attempt(run, 1)
    judge, other = RunFolder._state, []

    def slow(self: RunFolder, *arguments: Any) -> Any:
        verdict = judge(self, *arguments)
        if not other:
            other.append(None)
            other[0] = self.claim()
        return verdict

    monkeypatch.setattr(RunFolder, "_state", slow)
    assert run.claim() is None
    assert other[0] is not None
    assert len(run.attempts()) == 2


def test_a_run_is_held_by_the_living_and_lost_with_them(bench: Bench) -> None:
    run = bench.folder(specs_of()[0])
    attempt = run.claim()
    assert attempt is not None
    assert run.state().name == "running"
    assert run.claim() is None
    beat = read_heartbeat(attempt)
    for change in ({"pid": 2**22 + 1}, {"started": "1"}):
        (attempt / "heartbeat").write_text(json.dumps({**beat, **change}))
        assert run.state().name == "lost"
    for elsewhere in ("another machine", beat["host"].split()[0] + " pid:[1]"):
        (attempt / "heartbeat").write_text(json.dumps({**beat, "host": elsewhere, "pid": 2**22 + 1}))
        assert run.state().name == "running", "its processes cannot be seen from here"
        later = time.time() + runfolder.LOST_AFTER_SECONDS + 1
        assert run.state(later).name == "lost"
    (attempt / "heartbeat").unlink()
    assert run.state().name == "running", "between its claim and its first heartbeat"
    runfolder.abandon(attempt)
    assert run.state().name == "lost"


def test_a_caller_that_saw_fewer_attempts_does_not_run_it_again(bench: Bench) -> None:
    run = bench.folder(specs_of({"tiny_bad": {"how": "raise"}})[0])
    assert bench.worker(run).join() == 1
    assert run.claim(seen=0) is None
    assert run.claim(seen=1) is not None


@pytest.mark.parametrize("point", ["before checkpoint 7", "before posterior.bin", "before predictions.npz"])
def test_a_superseded_worker_writes_no_product(bench: Bench, undisturbed: dict[str, Any], point: str) -> None:
    run = bench.folder(specs_of()[0])
    bench.ask(point)
    worker = bench.worker(run)
    bench.at(point)
    before = {name: (run.path / name).read_bytes() for name in files_of(run) if "attempts" not in name}
    before.pop("history.jsonl", None)  # buffered lines of the method itself
    dead_attempt(run, 2)
    bench.go_on(point)
    assert worker.join() == 1
    after = {name: (run.path / name).read_bytes() for name in files_of(run) if "attempts" not in name}
    after.pop("history.jsonl", None)
    assert after == before
    outcome = json.loads((run.attempts()[0] / "outcome.json").read_text())
    assert (outcome["status"], outcome["type"]) == ("killed", "Superseded")
    assert bench.worker(run).join() == 0
    assert numbers_of(run) == undisturbed
    assert outcomes(run) == ["killed", "-", "ok"]


def test_a_superseded_worker_publishes_nothing(bench: Bench) -> None:
    """Taken over after its last phase, just before it would publish."""
    run = bench.folder(specs_of()[0])
    assert bench.worker(run).join() == 0
    run.file("result.json").unlink()

    def patch() -> None:
        from benchmark import worker

        whole = worker._predicted

        def overtaken(run: RunFolder) -> bool:
            dead_attempt(run, 3)
            return whole(run)

        worker._predicted = overtaken

    assert bench.worker(run, patch).join() == 1
    assert not run.file("result.json").exists()
    assert outcomes(run) == ["ok", "killed", "-"]
    assert bench.worker(run).join() == 0


def test_a_stop_that_comes_before_the_phase_is_ready_is_not_lost(bench: Bench, undisturbed: dict[str, Any]) -> None:
    """SIGTERM right after the fork: the run stops at its first checkpoint, not after the grace period."""
    run = bench.folder(specs_of()[0])

    def patch() -> None:
        fork = os.fork

        def fork_and_stop() -> int:
            pid = fork()
            if pid:
                os.kill(pid, signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
            return pid

        os.fork = fork_and_stop

    worker = bench.worker(run, patch)
    assert worker.join(20) == 1
    assert (run.state().name, run.state().detail["type"]) == ("killed", "Interrupted")
    assert bench.worker(run).join() == 0
    assert numbers_of(run) == undisturbed


def test_a_stop_during_evaluate_ends_it_at_once(bench: Bench, undisturbed: dict[str, Any]) -> None:
    run = bench.folder(specs_of()[0])
    bench.ask("before predictions.npz")
    worker = bench.worker(run)
    bench.at("before predictions.npz")
    assert worker.kill(signal.SIGTERM) == 1
    assert run.state().name == "killed"
    bench.go_on("before predictions.npz")
    assert bench.worker(run).join() == 0
    assert numbers_of(run) == undisturbed


def test_a_folder_that_is_no_run_is_refused(bench: Bench) -> None:
    missing: Path = bench.root / "nothing here"
    child: Child = bench.worker(RunFolder(missing))
    assert child.join() != 0
    assert not missing.exists()
