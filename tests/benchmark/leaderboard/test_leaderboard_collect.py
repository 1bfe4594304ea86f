"""From run folders on disk to records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from leaderboard_cases import result, spec, values

from benchmark.files import write_json
from benchmark.identity import RunSpec
from benchmark.leaderboard import build, collect
from benchmark.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def publish(store: Store, run: RunSpec, **numbers: float) -> RunSpec:
    folder = store.folder(run.id)
    folder.create(run)
    folder.publish(result(run, values(**numbers)))
    return run


def by_id(*runs: RunSpec) -> dict[str, RunSpec]:
    return {run.id: run for run in runs}


def test_a_finished_run_is_read_back_as_it_was_published(store: Store) -> None:
    run = publish(store, spec("map"), nll=0.25)
    [record] = collect(store, by_id(run))
    assert (record.run, record.finished, record.draws, record.code) == (run.id, True, 1, "0123456789abcdef")
    assert record.status == "stale", "its code digest is not that of the code here"
    assert record.metrics["nll"]["value"] == 0.25


def test_base_seconds_count_every_run_behind_once_also_those_outside_the_rows(store: Store) -> None:
    base = publish(store, spec("map"), train_seconds=1000.0)
    sampling = publish(store, spec("hmc", needs=(base.id,)), train_seconds=200.0)
    row = publish(store, spec("hmc_rebasin", needs=(base.id, sampling.id)), train_seconds=10.0)
    [record] = collect(store, by_id(row))
    assert record.base_seconds == 1200.0
    assert build([record]).rows[0].cells["train_seconds.with_base"].by_seed == {0: 1210.0}


def test_an_unknown_base_is_no_zero(store: Store) -> None:
    row = publish(store, spec("mean_field", needs=("digits.resnet18.map.s0-000000000000",)))
    [record] = collect(store, by_id(row))
    assert record.base_seconds is None
    assert build([record]).rows[0].cells["train_seconds.with_base"].state == "failed"
    assert build([record]).rows[0].cells["train_seconds"].state == "ok"


def test_the_lineage_is_the_same_for_every_seed_and_differs_with_the_base(store: Store) -> None:
    bases = [publish(store, spec("map", seed)) for seed in (0, 1)]
    other = publish(store, spec("map", 0, config={"epochs": 9}))
    rows = [publish(store, spec("mean_field", base.seed, needs=(base.id,))) for base in (*bases, other)]
    first, second, third = (record.lineage for record in collect(store, by_id(*rows)))
    assert first == second != third
    assert [row.coverage for row in build(collect(store, by_id(*rows))).rows] in (["1/1", "2/2"], ["2/2", "1/1"])


def test_a_damaged_result_is_a_corrupt_run_and_loses_nothing_else(store: Store) -> None:
    good, bad = publish(store, spec("map", 0)), publish(store, spec("map", 1))
    path = store.folder(bad.id).file("result.json")
    path.write_bytes(path.read_bytes().replace(b"0.91", b"0.99"))
    first, second = collect(store, by_id(good, bad))
    assert first.finished
    assert (second.status, second.finished) == ("corrupt", False)
    assert str(path) in second.detail["message"]


def test_a_result_of_another_schema_is_not_shown_as_if_it_were_ours(store: Store) -> None:
    run = spec("map")
    store.folder(run.id).create(run)
    store.folder(run.id).publish(result(run, schema=2))
    [record] = collect(store, by_id(run))
    assert record.status == "corrupt"
    assert "schema 2" in record.note


def test_runs_without_a_result_keep_their_own_word_and_reason(store: Store) -> None:
    new, failing = spec("map", 0), spec("map", 1)
    attempt = store.folder(failing.id).file("attempts") / "0001"
    store.folder(failing.id).create(failing)
    attempt.mkdir(parents=True)
    outcome = {"status": "oom", "phase": "fit", "message": "CUDA out of memory", "retriable": False}
    write_json(attempt / "outcome.json", outcome)
    dependent = spec("mean_field", 1, needs=(failing.id,))
    specs = by_id(new, failing, dependent)
    records = collect(store, specs, store.statuses(specs))
    assert [record.status for record in records] == ["new", "oom", "skipped"]
    assert records[1].detail["phase"] == "fit"
    assert records[2].note == f"needs {failing.id} (oom)"


def test_statuses_that_are_given_are_not_read_again(store: Store) -> None:
    run = publish(store, spec("map"))
    statuses = store.statuses(by_id(run))
    store.folder(run.id).file("result.json").unlink()
    assert collect(store, by_id(run), statuses)[0].finished


def test_importing_the_leaderboard_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'pandas', 'jinja2', 'rich', 'numpy', 'pydantic'}"
    code = f"import sys, benchmark.leaderboard; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    heavy = "{'torch', 'pandas', 'jinja2'}"
    code = f"import sys; from benchmark.leaderboard import *; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
