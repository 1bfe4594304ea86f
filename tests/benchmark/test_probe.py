"""A probe runs the real fit for a moment: near the truth where it says a number, silent with a reason where not."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.main import main
from benchmark.estimate import Estimates, Timing, estimates_of
from benchmark.identity import RunSpec
from benchmark.operation import Operation
from benchmark.plan import Plan, plan
from benchmark.probe import Probe, probe, probe_one
from benchmark.probe.rate import Refused, extrapolated
from benchmark.registry import load_plugin_file
from benchmark.store import Store, to_run
from benchmark.study import study_from_flags

PLUGIN = Path(__file__).parent / "reliability" / "plugins" / "tiny.py"
TINY = {"tasks": ["tiny"], "networks": ["tinynet"], "protocol": {"draws": 4}}
METHODS = [{"map": {"epochs": 60}}, {"mean_field": {"epochs": 30}}]
PROBE_SECONDS = 0.5
FACTOR = 3.0
TRIES = 3
"""A machine that is busy for a moment is not what is tested."""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Probes one method of the plugin for a number of seconds."""
    for name in ("TINY_BASE_FAILS", "TINY_MENDED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TINY_PAUSE", str(tmp_path))
    load_plugin_file(PLUGIN)

    def probed(method: dict[str, Any] | str, seconds: float = 1.0) -> Timing | str:
        planned = plan(study_from_flags({**TINY, "methods": [method]}))
        return probe_one(wanted(planned, next(iter(planned.rows.values())), tmp_path, seconds))

    return probed


def wanted(planned: Plan, spec: RunSpec, results: Path, seconds: float) -> Probe:
    return Probe(spec, planned.specs, results / "runs", Operation(), seconds)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_probes_of_digits_are_near_the_real_times_and_write_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn.datasets")  # imported here once, instead of in every process of the runs
    command = ["--task", "digits", "--network", "mlp-16", "--default", "map: {epochs: 2}"]
    command += [word for method in METHODS for word in ("--method", str(method))]
    with pytest.raises(SystemExit) as ended:
        main(["run", *command, "--launcher", "inline: {latency: 'off'}", "--results", str(tmp_path), "--json"])
    assert not ended.value.code
    before, temporary = snapshot(tmp_path), temporary_folders()
    flags = {"tasks": ["digits"], "networks": ["mlp-16"], "methods": METHODS, "defaults": {"map": {"epochs": 2}}}
    planned, elsewhere = plan(study_from_flags(flags)), Store(tmp_path / "nothing")  # so that base runs have stand-ins
    assert set(planned.specs) == set(Store(tmp_path).ids())
    for run_id, spec in planned.rows.items():
        result = Store(tmp_path).folder(run_id).result()
        assert result is not None
        real = result["metrics"]["train_seconds"]["value"]
        ratios: list[float] = []
        for number in range(TRIES):
            estimates = Estimates({run_id: "this"})
            probe(planned.specs, estimates, elsewhere, Operation(), PROBE_SECONDS * 2**number)
            if estimates.refused:  # too busy to come anywhere
                continue
            (timing,) = estimates.of(run_id)
            assert timing.device == f"{result['environment']['processor']}, 1 thread"
            assert timing.predict is not None
            assert timing.predict > 0
            ratios.append(timing.fit / real)
            if 1 / FACTOR < ratios[-1] < FACTOR:
                break
        else:
            raise AssertionError(f"{spec.label}: the probes were {ratios} times the real {real:.2f} s")
    assert snapshot(tmp_path) == before
    assert temporary_folders() == temporary
    assert "probe 1 of 1" in capfd.readouterr().err


def temporary_folders() -> set[str]:
    import tempfile

    return {path.name for path in Path(tempfile.gettempdir()).glob("bnnbench-probe-*")}


def test_a_fit_that_ends_in_time_is_timed_and_not_extrapolated(tiny: Any) -> None:
    found = tiny({"tiny_sgd": {"steps": 10, "sleep": 0.05}}, 20.0)
    assert isinstance(found, Timing)
    assert found.complete
    assert 0.5 < found.fit < 10.0


def test_one_run_of_a_kind_is_probed_for_all_its_seeds(tiny: Any, tmp_path: Path) -> None:
    planned = plan(study_from_flags({**TINY, "methods": [{"tiny_sgd": {"sleep": 0.01}}], "seeds": 4}))
    store = Store(tmp_path)
    statuses = store.statuses(planned.specs)
    estimates = estimates_of(to_run(planned, statuses), planned.specs, statuses, store)
    probe(planned.specs, estimates, store, Operation(), 5.0)
    assert len(estimates.timings) == 1
    assert not estimates.unknown
    (total,) = estimates.devices()
    assert (len(total.covered), len(total.probed), total.finished) == (4, 4, 0)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", "ValueError: a bug of the method"),
        ("sigkill", "SIGKILL in the middle of: fit of tiny_bad"),
        ("os_exit", "exit status 0 in the middle of: fit of tiny_bad"),
        ("hang", "no progress was seen within 0.5 s"),
    ],
)
def test_a_method_that_misbehaves_is_not_probed(tiny: Any, how: str, reason: str) -> None:
    found = tiny({"tiny_bad": {"how": how}}, 0.5)
    assert isinstance(found, str)
    assert reason in found


def test_where_the_needed_method_fails_there_is_no_stand_in(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(tiny({"tiny_sgd": {"base": True}}), Timing)
    monkeypatch.setenv("TINY_BASE_FAILS", "yes")
    found = tiny({"tiny_sgd": {"base": True}})
    assert found == "no stand-in for the needed tiny_base: RuntimeError: the base network fails, as asked for"


def test_helpers_of_a_method_end_with_the_probe(tiny: Any, tmp_path: Path) -> None:
    tiny({"tiny_bad": {"how": "leave_helper"}})
    helper = int((tmp_path / "helper.pid").read_text())
    deadline = time.monotonic() + 10.0
    while alive(helper) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(helper)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z" and os.getpid() != pid


def test_the_rate_is_that_of_the_second_half() -> None:
    slow = [(float(second), second, 1000) for second in range(1, 6)]
    fast = [(5.0 + 0.1 * step, 5 + step, 1000) for step in range(1, 51)]
    assert extrapolated([*slow, *fast], 10.0) == pytest.approx(10.0 + (1000 - 55) * 0.1)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([], "no progress was seen within 10 s"),
        ([(9.0, 1, 50)], "too little progress"),
        ([(1.0, 5, 50), (2.0, 10, 50)], "no progress was seen after 2 s"),
        ([(1.0, 5, 50), (6.0, 50, 50)], "no progress was seen after 6 s"),
        ([(1.0, 5, 50), (9.0, 6, 80)], "several stages"),
        ([(1.0, 5, 50), (9.0, 2, 50)], "too little progress"),
    ],
)
def test_what_says_nothing_about_the_rest_is_not_extrapolated(
    samples: list[tuple[float, int, int]], reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        extrapolated(samples, 10.0)
