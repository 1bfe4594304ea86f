"""What a run costs beside fitting and predicting."""

from __future__ import annotations

import itertools
import json

import pytest
from reliability_cases import Bench, run_main

SEEDS = 6


@pytest.mark.benchmarks
@pytest.mark.parametrize("latency", ["off", "brief"])
def test_a_launched_run_costs_less_than_two_seconds_of_its_own(
    bench: Bench, latency: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of one launch, one at a time; the first one, which waits for the server to import torch, is left out."""
    flags = ["run", "--task", "tiny", "--network", "tinynet", "--draws", "4", "--method", "tiny_sgd"]
    launcher = f"local: {{latency: '{latency}', workers: 1}}"
    assert run_main(bench.arguments([*flags, "--seeds", str(SEEDS), "--launcher", launcher])) == 0
    runs = [bench.store.folder(name) for name in bench.store.ids()]
    own = []
    ended: list[tuple[float, float]] = []
    for run in runs:
        outcome = json.loads((run.attempts()[-1] / "outcome.json").read_text())
        result = run.result()
        assert result is not None
        useful = outcome["fit_seconds"] + result["seconds"]["predict"]
        own.append(outcome["seconds"] - useful)
        ended.append(((run.attempts()[-1] / "outcome.json").stat().st_mtime, useful))
    ended.sort()
    between = [later[0] - earlier[0] - later[1] for earlier, later in itertools.pairwise(ended)]
    with capsys.disabled():
        print(f"\nlatency {latency}: beside fit and predict, in the worker {max(own):.2f} s at most;"
              f" between the ends of two runs {max(between):.2f} s at most")  # fmt: skip
    allowed = 2.0 if latency == "off" else 3.5  # brief: two batch sizes of up to 0.6 s each
    assert max(between) < allowed
