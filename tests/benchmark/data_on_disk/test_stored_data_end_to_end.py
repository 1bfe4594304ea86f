"""A study that reads files, starts from stored weights and is predicted under shift, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.cli.main import main
from benchmark.datasets import DATA_ROOT
from benchmark.metrics.predictions import Predictions
from benchmark.runfolder import RunFolder
from benchmark.store import Store
from benchmark.worker import work

PLUGIN = Path(__file__).parent / "plugins" / "stored_bars.py"
STUDY = """
name: stored
tasks: stored_bars
networks: [storednet, {storednet: {weights: file}}]
methods: as_it_starts
protocol: {draws: 1, shift: [5, 2]}
"""
INLINE = ("--launcher", "inline: {latency: 'off'}")
FIRST_LAYER = np.linspace(-1, 1, 36, dtype=np.float32).reshape(4, 9)


def bnnbench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--plugin", str(PLUGIN)])
    return ended.value.code if isinstance(ended.value.code, int) else 0


def write(root: Path, name: str, array: np.ndarray) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    np.save(root / name / "pixels.npy", array)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 130, (210, 3, 3)).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with all that the study reads."""
    place = tmp_path / "data"
    monkeypatch.setenv(DATA_ROOT, str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(place, "bars", noise(0))
    write(place, "bars-c", noise(1))
    write(place, "bars-weights", FIRST_LAYER)
    return place


@pytest.fixture
def study(tmp_path: Path, root: Path) -> tuple[str, str, str]:
    (tmp_path / "stored.yaml").write_text(STUDY, encoding="utf-8")
    return str(tmp_path / "stored.yaml"), "--results", str(tmp_path / "results")


def planned(study: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert bnnbench("plan", *study, "--json") == 0
    return {run["id"]: run["spec"] for run in json.loads(capsys.readouterr().out)["runs"]}


def test_everything_missing_is_told_at_once_and_nothing_is_written(study, root, tmp_path, capsys):
    for name in ("bars", "bars-c", "bars-weights"):
        (root / name / "pixels.npy").unlink()
    for verb in ("plan", "run"):
        assert bnnbench(verb, *study) == 3
        told = capsys.readouterr().err
        for name in ("bars", "bars-c"):
            assert f"{root / name / 'pixels.npy'} is missing" in told
        assert "bnnbench data prepare bars bars-c" in told
        assert "Copy it there by hand." in told
    assert not (tmp_path / "results" / "runs").exists()


def test_missing_weights_are_told_before_anything_is_planned(study, root, capsys):
    (root / "bars-weights" / "pixels.npy").unlink()
    assert bnnbench("plan", *study) == 3
    told = capsys.readouterr().err
    assert "bnnbench data prepare bars-weights" in told


def test_predictions_under_shift_are_stored_scored_and_rescored(study, capsys):
    assert bnnbench("run", *study, *INLINE) == 0
    store = Store(Path(study[2]))
    runs = [store.folder(spec.id) for spec in store.specs()]
    assert len(runs) == 2
    for run in runs:
        stored = dict(np.load(run.file("predictions.npz")))
        names = {key.removesuffix(".log_probs") for key in stored if key.startswith("shift.") and "log" in key}
        assert names == {f"shift.{kind}.{severity}" for kind in ("dark", "noise") for severity in (2, 5)}
        assert stored["shift.labels"].tolist() == [i % 6 for i in range(40)]
        metrics = found(run)["metrics"]
        expected = {s: mean_nll(stored, [f"shift.{kind}.{s}" for kind in ("dark", "noise")]) for s in (2, 5)}
        for severity in (2, 5):
            assert metrics[f"shift_nll.{severity}"]["value"] == pytest.approx(expected[severity], rel=1e-6)
        assert metrics["shift_nll.mean"]["value"] == pytest.approx((expected[2] + expected[5]) / 2, rel=1e-6)
        assert set(metrics["shift_nll.mean"]["extra"]["sets"]) == {"dark.2", "noise.2", "dark.5", "noise.5"}
        again = Predictions.load(run.file("predictions.npz"))
        assert set(Predictions.from_arrays(again.arrays()).arrays()) == set(stored)
    before = [found(run)["metrics"] for run in runs]
    assert bnnbench("rescore", "--all", *study[1:]) == 0
    assert [found(run)["metrics"] for run in runs] == before
    capsys.readouterr()
    assert bnnbench("leaderboard", *study) == 0
    shown = capsys.readouterr().out
    assert "NLL shifted" in shown
    assert "storednet weights=" in shown
    assert "shift=2,5" in shown


def test_stored_weights_start_the_fit_and_are_not_needed_to_predict(study, root):
    assert bnnbench("run", *study, *INLINE) == 0
    starts = {}
    for spec in Store(Path(study[2])).specs():
        state = np.load(Store(Path(study[2])).folder(spec.id).file("predictions.npz"))
        starts[bool(spec.network.config)] = state["test.log_probs"]
    assert not np.array_equal(starts[True], starts[False])
    (root / "bars-weights" / "pixels.npy").unlink()
    for run in Store(Path(study[2])).ids():
        folder = Store(Path(study[2])).folder(run)
        for product in ("predictions.npz", "result.json"):
            folder.file(product).unlink()
        assert work(str(folder.path)) == 0  # predicts again, from the bytes of the posterior


def test_retry_looks_for_the_data_before_it_touches_a_finished_run(study, root, tmp_path, capsys, monkeypatch):
    assert bnnbench("run", *study, *INLINE) == 0
    results = study[1:]
    before = {run: found(Store(Path(study[2])).folder(run)) for run in Store(Path(study[2])).ids()}
    monkeypatch.setenv(DATA_ROOT, str(tmp_path / "nowhere"))
    assert bnnbench("retry", "stored_bars", "--afresh", *results, *INLINE) == 3
    assert "bnnbench data prepare bars" in capsys.readouterr().err
    assert {run: found(Store(Path(study[2])).folder(run)) for run in before} == before
    monkeypatch.delenv(DATA_ROOT)  # the wrong root was not remembered: each run reads where it read before
    assert bnnbench("retry", "stored_bars", "--afresh", *results, *INLINE) == 0


def test_runs_can_be_looked_at_where_the_data_are_not(study, root, capsys):
    assert bnnbench("run", *study, *INLINE) == 0
    assert bnnbench("leaderboard", *study, "--format", "csv") == 0
    before = capsys.readouterr().out
    (root / "bars" / "pixels.npy").unlink()
    assert bnnbench("leaderboard", *study, "--format", "csv") == 0
    after = capsys.readouterr()
    assert before.endswith(after.out)
    assert "the data of study 'stored' are not here" in after.err
    assert bnnbench("status", *study) == 0
    assert "2 runs" in capsys.readouterr().out
    assert bnnbench("status", *study, "--seeds", "2") == 3  # never run like this, and cannot be planned
    assert "bnnbench data prepare bars" in capsys.readouterr().err


def test_the_identity_follows_the_content_of_the_files_that_are_read(study, root, capsys):
    first = planned(study, capsys)
    write(root, "bars-weights", FIRST_LAYER + 1)
    second = planned(study, capsys)
    assert len(set(first) & set(second)) == 1  # the network without stored weights
    write(root, "bars-c", noise(2))
    assert not set(second) & set(planned(study, capsys))
    write(root, "bars-c", noise(1))
    write(root, "bars-weights", FIRST_LAYER)
    assert planned(study, capsys) == first


def test_a_network_without_settings_has_the_identity_it_had_before_there_were_any(study, capsys):
    plain, stored = sorted((spec["network"] for spec in planned(study, capsys).values()), key=lambda part: str(part))
    assert {"name": "storednet", "version": 1, "config": {}} in (plain, stored)
    assert next(part for part in (plain, stored) if part["config"])["config"]["weights"] != "file"


@pytest.mark.parametrize(
    ("given", "told"),
    [("0", "greater than or equal to 1"), ("[2, 6]", "less than or equal to 5"), ("[2, 2]", "listed twice")],
)
def test_severities_outside_of_1_to_5_are_refused(study, capsys, given, told):
    assert bnnbench("plan", *study, "--shift", given) == 2
    assert told in capsys.readouterr().err


def test_shift_is_refused_for_a_task_without_corruptions(study, capsys):
    assert bnnbench("plan", "--task", "gaussian_mixture", "--network", "mlp-8", "--method", "map", "--shift", "3") == 2
    assert "task 'gaussian_mixture' has no corruptions" in capsys.readouterr().err


def test_wrong_settings_of_a_network_are_told_with_the_legal_ones(study, capsys):
    assert bnnbench("plan", *study, "--network", "storednet: {wieghts: file}") == 2
    told = capsys.readouterr().err
    assert "wieghts" in told
    assert "Did you mean 'weights'?" in told


def found(run: RunFolder) -> dict[str, Any]:
    result = run.result()
    assert result is not None
    return result


def mean_nll(stored: dict[str, np.ndarray], sets: list[str]) -> float:
    labels = stored["shift.labels"]
    return float(np.mean([-stored[f"{each}.log_probs"][np.arange(40), labels].mean() for each in sets]))
