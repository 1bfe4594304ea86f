"""`bnnbench plan` says what is left to do in hours of a device, and from where it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.main import main

PLUGIN = Path(__file__).parents[1] / "reliability" / "plugins" / "tiny.py"
STUDY = ["--task", "tiny", "--network", "tinynet", "--draws", "4", "--method", "tiny_sgd: {sleep: 0.01}"]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls `bnnbench`; what it printed on standard output."""
    monkeypatch.setenv("BNNBENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--plugin", str(PLUGIN)])
        assert not ended.value.code
        return capfd.readouterr().out

    return called


def test_a_plan_without_timings_names_the_command_that_gets_them(call: Any, tmp_path: Path) -> None:
    out = call("plan", *STUDY, "--seeds", "2")
    assert "2 have no timing yet: bnnbench plan --task tiny" in out
    assert "--probe 30" in out
    assert "device-" not in out
    assert list(tmp_path.iterdir()) == []


def test_finished_runs_time_the_others(call: Any) -> None:
    call("run", *STUDY, "--launcher", "inline: {latency: 'off'}", "--json")
    out = call("plan", *STUDY, "--seeds", "3", "--method", "tiny_base", "--runs")
    assert "device-seconds on" in out
    assert "1 thread (one finished run) for 2 of 5 runs to do" in out
    assert "3 have no timing yet" in out
    assert "2 x tiny tinynet tiny_sgd sleep=0.01:" in out
    assert "3 x tiny tinynet tiny_base: no timing" in out
    made = json.loads(call("plan", *STUDY, "--seeds", "3", "--json"))
    assert made["estimate"]["unknown"] == 0
    (device,) = made["estimate"]["devices"]
    assert (device["runs"], device["finished_runs"], device["probed"]) == (2, 1, 0)
    done, *others = made["runs"]
    assert done["estimates"] == []
    for run in others:
        (estimate,) = run["estimates"]
        assert estimate["source"] == "one finished run"
        assert estimate["seconds"] == estimate["fit_seconds"] + estimate["predict_seconds"]
        assert device["device_hours"] == pytest.approx(2 * estimate["seconds"] / 3600)


def test_nothing_is_said_about_hours_when_nothing_is_to_do(call: Any) -> None:
    call("run", *STUDY, "--launcher", "inline: {latency: 'off'}", "--json")
    out = call("plan", *STUDY)
    assert "Nothing to run." in out
    assert "device" not in out
    assert "timing" not in out


def test_a_probe_is_marked_as_one_and_reasons_are_told(call: Any, tmp_path: Path) -> None:
    study = [*STUDY, "--method", "tiny_bad: {how: raise}"]
    out = call("plan", *study, "--probe", "2")
    assert "~" in out
    assert "(probe of 2 s) for 1 of 2 runs to do" in out
    assert "1 not probed (tiny_bad how=raise for tinynet on tiny): ValueError: a bug of the method" in out
    made = json.loads(call("plan", *study, "--probe", "0.05", "--json"))
    by_method = {run["spec"]["method"]["name"]: run for run in made["runs"]}
    assert by_method["tiny_bad"]["estimates"] == []
    assert "ValueError" in by_method["tiny_bad"]["not_probed"]
    (estimate,) = by_method["tiny_sgd"]["estimates"]
    assert estimate["extrapolated"]
    assert estimate["source"] == "probe of 0.05 s, extrapolated"
    assert list(tmp_path.iterdir()) == []
