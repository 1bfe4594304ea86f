"""The leaderboard of a large sweep is there in seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from leaderboard_cases import result, spec

from benchmark.identity import RunSpec
from benchmark.leaderboard import build, collect
from benchmark.metrics.catalogue import METRICS, PREDICTION_METRICS
from benchmark.metrics.record import Value
from benchmark.runfolder import seal
from benchmark.store import Store

RUNS = 10_000
SEEDS = 5
TARGET_SECONDS = 5.0


@pytest.mark.benchmarks
def test_ten_thousand_finished_runs_are_collected_into_tables_within_five_seconds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    specs = {run.id: run for run in _sweep()}
    size = sum(_write(store, run, position) for position, run in enumerate(specs.values())) / RUNS
    assert 4_000 < size < 8_000, "the results of the measurement are as large as real ones"

    started = time.process_time()  # one thread and warm files: time that others take on the machine is not ours
    records = collect(store, specs)
    collected = time.process_time() - started
    board = build(records)
    total = time.process_time() - started

    print(f"\n{RUNS} runs of {size:.0f} bytes: collect {collected:.2f} s, build {total - collected:.2f} s")
    assert sum(row.finished for row in board.rows) == RUNS
    assert total < TARGET_SECONDS


def _sweep() -> Iterator[RunSpec]:
    """Base networks and rows with settings that start from them: tasks x networks x (1 + 99 settings) x seeds."""
    for number in range(RUNS // (100 * SEEDS)):
        place = {"task": ("digits", "gaussian_mixture")[number % 2], "network": f"wrn-{10 + 6 * (number // 2)}-1"}
        for seed in range(SEEDS):
            base = spec("map", seed, **place)
            yield base
            for epochs in range(1, 100):
                yield spec("mean_field", seed, given={"epochs": epochs}, needs=(base.id,), **place)


def _write(store: Store, run: RunSpec, position: int) -> int:
    """Write a result with every metric and the reliability diagrams that real ones carry; returns its size."""
    bins = {"edges": [i / 15 for i in range(16)], "counts": [60] * 15, "confidence": [0.5123456789] * 15}
    metrics = {
        metric.name: Value.ok(0.1 + position / (3 * RUNS), 899, 0.0123456789, bins if metric.name == "ece15" else None)
        for metric in (*PREDICTION_METRICS, METRICS["bytes"], METRICS["ratio_fp32"], METRICS["train_seconds"])
    }
    data = seal(result(run, {name: value.to_json(METRICS[name]) for name, value in metrics.items()}))
    folder = store.runs / run.id
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(data)
    return len(data)
