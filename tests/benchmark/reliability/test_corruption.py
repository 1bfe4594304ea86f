"""Damaged files: a clear error that names the file, the other runs untouched, mended by running again."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reliability_cases import Bench, files_of, numbers_of, specs_of

FLAGS = ["--task", "tiny", "--network", "tinynet", "--draws", "4", "--method", "tiny_sgd"]
INLINE = ["--launcher", "inline: {latency: 'off'}"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_json(path: Path) -> None:
    path.write_text("[1, 2]")


def poison(path: Path) -> None:
    """A pickle that leaves a file when somebody loads it."""
    path.write_bytes(pickle.dumps(Bomb(str(path.with_name("exploded")))))


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


DAMAGES = (flip, truncate, empty, other_json, poison)
PRODUCTS = ("fit.json", "posterior.bin", "evaluation.json", "predictions.npz", "spec.json", "operation.json")


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_damaged_product_is_mended_when_the_run_goes_on(bench: Bench, undisturbed: dict[str, Any], name: str) -> None:
    """Damage happens to a run that was killed just before its result."""
    spec = specs_of()[0]
    run = bench.folder(spec)
    assert bench.worker(run).join() == 0
    for damage in DAMAGES:
        run.file("result.json").unlink()
        before = run.file(name).read_bytes()
        damage(run.file(name))
        if run.file(name).read_bytes() == before:
            continue
        assert bench.launch("run", *FLAGS, *INLINE).join() == 0, (name, damage)
        assert numbers_of(run) == undisturbed, (name, damage)
    assert not list(run.path.rglob("exploded"))
    if name not in ("spec.json", "operation.json"):
        assert any(name in (attempt / "log.txt").read_text() for attempt in run.attempts()), "the error names the file"


@pytest.mark.parametrize("name", ["result.json", "attempts/0001/outcome.json", "attempts/0001/heartbeat"])
def test_a_damaged_record_is_mended(bench: Bench, undisturbed: dict[str, Any], name: str) -> None:
    run = bench.folder(specs_of()[0])
    assert bench.worker(run).join() == 0
    for damage in DAMAGES:
        damage(run.file(name))
        state = run.state()
        if name == "result.json":
            assert state.name == "corrupt"
            assert "result.json is damaged" in state.detail["message"]
        assert bench.launch("run", *FLAGS, *INLINE).join() == 0
        assert numbers_of(run) == undisturbed, damage


def test_a_deleted_result_is_mended_by_run_and_by_rescore(bench: Bench, undisturbed: dict[str, Any]) -> None:
    run = bench.folder(specs_of()[0])
    assert bench.worker(run).join() == 0
    first = run.result()
    assert first is not None
    run.file("result.json").unlink()
    assert run.state().name == "corrupt"
    assert bench.launch("rescore", "--all").join() == 0
    again = run.result()
    assert again is not None
    assert {**again, "finished": ""} == {**first, "finished": ""}
    run.file("result.json").unlink()
    assert bench.launch("run", *FLAGS, *INLINE).join() == 0
    assert numbers_of(run) == undisturbed
    assert "phase is run again" not in (run.attempts()[-1] / "log.txt").read_text()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(
    bench: Bench, undisturbed: dict[str, Any], damage: Callable[[Path], None]
) -> None:
    run = bench.folder(specs_of()[0])
    bench.ask("after checkpoint 7")
    worker = bench.worker(run)
    bench.at("after checkpoint 7")
    worker.kill()
    bench.go_on("after checkpoint 7")
    newest = sorted((run.path / "checkpoint").iterdir())[-1]
    damage(newest)
    assert bench.worker(run).join() == 0
    assert numbers_of(run) == undisturbed
    assert newest.name in (run.attempts()[-1] / "log.txt").read_text()


def test_a_damaged_posterior_stops_those_that_need_it_and_says_what_to_do(bench: Bench) -> None:
    base, own = specs_of({"tiny_sgd": {"base": True}})
    flags = [*FLAGS[:-1], "tiny_sgd: {base: true}"]
    needed, run = bench.folder(base), bench.folder(own)
    assert bench.worker(needed).join() == 0
    flip(needed.file("posterior.bin"))
    assert bench.launch("run", *flags, *INLINE).join() == 1
    state = run.state()
    assert state.name == "failed"
    assert str(needed.file("posterior.bin")) in state.detail["message"]
    command = re.search(r"bnnbench (retry \S+ --afresh)", state.detail["message"])
    assert command is not None
    assert bench.launch(*command[1].split(), *INLINE).join() == 0
    assert bench.launch("retry", "--failed", *INLINE).join() == 0
    assert run.state().name == "ok"


def test_one_damaged_run_costs_the_others_nothing(bench: Bench) -> None:
    good, bad = (bench.folder(spec) for spec in specs_of(seeds=2))
    for run in (good, bad):
        assert bench.worker(run).join() == 0
    before = {name: (good.path / name).read_bytes() for name in files_of(good)}
    empty(bad.file("result.json"))
    empty(bad.file("spec.json"))
    (bench.store.runs / "a stray file").touch()
    output = bench.root / "status.json"
    assert bench.launch("status", "--json", output=output).join() == 1
    assert json.loads(output.read_text())["unreadable"] == [bad.id]
    assert bench.launch("run", *FLAGS, "--seeds", "2", *INLINE).join() == 0
    assert {name: (good.path / name).read_bytes() for name in files_of(good)} == before
    assert bench.launch("status", "--json").join() == 0


def test_no_pickle_is_ever_loaded(bench: Bench) -> None:
    """Malicious pickles under the names of all products of a killed run: none is obeyed."""
    run = bench.folder(specs_of()[0])
    bench.ask("before evaluation.json")
    worker = bench.worker(run)
    os.kill(bench.at("before evaluation.json"), signal.SIGKILL)
    assert worker.join() == 1
    bench.go_on("before evaluation.json")
    for path in [*run.path.glob("*.json"), *run.path.glob("*.bin"), *run.path.glob("*.npz"), *run.path.glob("*.jsonl"),
                 *run.path.glob("checkpoint/*"), *run.path.glob("attempts/*/*")]:  # fmt: skip
        poison(path)
    poison(run.file("evaluation.json"))
    poison(run.file("before.npz"))
    poison(run.file("result.json"))
    assert bench.launch("status").join() in (0, 1)
    assert bench.launch("rescore", "--all").join() in (0, 1)
    assert bench.launch("run", *FLAGS, *INLINE).join() == 0
    assert not list(bench.root.rglob("exploded"))


RESTRICTED = "tasks/files/cifar_pickle.py: class _Unpickler(pickle.Unpickler):"
"""CIFAR is published as pickles. Its reader makes no object that a file names: see its own tests with hostile files."""
ADVICE = "tasks/networks/checkpoints.py: \"torch.save(torch.load(PATH, weights_only=False)['state_dict'], NEW)\""
"""What a user is told to do, on his own responsibility, with a checkpoint that is refused."""


def test_the_sources_load_no_pickle() -> None:
    root = Path(__file__).parents[3]
    forbidden = re.compile(
        r"pickle\.loads?\(|pickle\.Unpickler|joblib\.load\(|allow_pickle\s*=\s*True|weights_only\s*=\s*False"
        r"|torch\.load\((?![^)]*weights_only\s*=\s*True)|shelve\.open|marshal\.loads?\(|read_pickle"
    )
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for package in ("benchmark", "methods", "tasks", "slurm")
        for path in (root / package).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if forbidden.search(line)
    ]
    assert sorted(found) == sorted([RESTRICTED, ADVICE])
