"""Speed that a user feels before anything runs: planning a large study, listing what is installed."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.plan import plan
from benchmark.store import Store
from benchmark.study import study_from_flags

PLANNING_SECONDS = 3.0
LISTING_SECONDS = 0.5

LARGE = {
    "tasks": ["digits", {"gaussian_mixture": {"classes": [2, 3, 4, 5]}}],
    "networks": ["resnet20", "wrn-16-4", "mlp-64", "deit-micro"],
    "methods": ["map", {"mean_field": {"epochs": list(range(1, 49))}}, "deep_ensemble"],
    "seeds": 10,
}


@pytest.mark.benchmarks
def test_ten_thousand_runs_are_planned_and_looked_up_within_three_seconds(tmp_path):
    study_from_flags({**LARGE, "seeds": 1})  # imports of plugins are not planning
    begun = time.perf_counter()
    planned = plan(study_from_flags(LARGE))
    statuses = Store(tmp_path).statuses(planned.specs)
    seconds = time.perf_counter() - begun
    print(f"\nplanned {len(planned.specs)} runs in {seconds:.2f} s")
    assert len(planned.rows) == 10_000
    assert {status.name for status in statuses.values()} == {"new"}
    assert seconds < PLANNING_SECONDS


@pytest.mark.benchmarks
def test_listing_answers_within_half_a_second():
    bnnbench = str(Path(sys.executable).with_name("bnnbench"))
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        done = subprocess.run([bnnbench, "list"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - begun)
        assert "mean_field" in done.stdout
    print(f"\nbnnbench list: median {statistics.median(seconds):.2f} s of {[round(s, 2) for s in seconds]}")
    assert statistics.median(seconds) < LISTING_SECONDS
