"""A study with attacks and an OOD set through the command line: what is stored, scored, rescored and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.cli.main import main
from benchmark.metrics.ood import auroc
from benchmark.metrics.predictions import Predictions
from benchmark.runfolder import RunFolder
from benchmark.store import Store

PLUGIN = Path(__file__).parent / "plugins" / "scored.py"
STUDY = """
name: bars
tasks: bars
networks: barnet
methods: [bar_samples, bar_scored, bar_point]
protocol:
  draws: 3
  attacks:
    - {kind: fgsm, epsilon: 0.15}
    - {kind: pgd, epsilon: 0.15, step_size: 0.03, steps: 10, examples: 40}
    - {kind: pgd, epsilon: 0.15, step_size: 0.03, steps: 10, examples: 40, adaptive: true}
"""
FGSM, PGD, ADAPTIVE = "fgsm-linf-0.15", "pgd-linf-0.15x10", "pgd-linf-0.15x10-adaptive"
SETS = (FGSM, PGD, ADAPTIVE, "noise")
INLINE = ("--launcher", "inline: {latency: 'off'}")


def bnnbench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--plugin", str(PLUGIN)])
    return ended.value.code if isinstance(ended.value.code, int) else 0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The study file and the folder of its finished runs, as they are typed."""
    folder = tmp_path_factory.mktemp("bars")
    (folder / "bars.yaml").write_text(STUDY, encoding="utf-8")
    place = str(folder / "bars.yaml"), str(folder / "results")
    assert bnnbench("run", place[0], "--results", place[1], *INLINE) == 0
    return place


@pytest.fixture
def runs(study: tuple[str, str]) -> dict[str, RunFolder]:
    """Method -> its run."""
    store = Store(Path(study[1]))
    return {spec.method.name: store.folder(spec.id) for spec in store.specs()}


def arrays(run: RunFolder) -> dict[str, Any]:
    with np.load(run.file("predictions.npz"), allow_pickle=False) as archive:
        return dict(archive)


def result(run: RunFolder) -> dict[str, Any]:
    found = run.result()
    assert found is not None
    return found


def test_predictions_of_every_set_are_stored(runs):
    stored = arrays(runs["bar_scored"])
    sizes = {FGSM: 90, PGD: 40, ADAPTIVE: 40, "noise": 50}
    for name, n in {"test": 90, **{f"ood.{name}": n for name, n in sizes.items()}}.items():
        assert (stored[f"{name}.log_probs"].dtype, stored[f"{name}.log_probs"].shape) == (np.float32, (n, 6))
        assert stored[f"{name}.expected_entropy"].shape == (n,)
        assert (stored[f"{name}.score"].dtype, stored[f"{name}.score"].shape) == (np.float32, (n,))
    for attack in (FGSM, PGD, ADAPTIVE):
        np.testing.assert_array_equal(stored[f"ood.{attack}.labels"], stored["test.labels"][: sizes[attack]])
    assert "ood.noise.labels" not in stored
    assert not [key for key in stored if key.startswith("val.score")]
    assert not [key for key in arrays(runs["bar_samples"]) if key.endswith(".score")]


def test_the_attack_works_and_its_strength_is_in_the_name(runs):
    metrics = result(runs["bar_samples"])["metrics"]
    assert metrics["accuracy"]["value"] > 0.95
    assert metrics[f"attacked_accuracy.{FGSM}"]["value"] < 0.8
    assert metrics[f"attacked_accuracy.{PGD}"]["value"] < 0.8
    assert metrics[f"attacked_accuracy.{PGD}"]["n"] == 40
    assert metrics["ood_auroc[entropy].noise"]["value"] > 0.5


def test_attacked_examples_are_compared_with_themselves_before_the_attack_and_ood_sets_with_all(runs):
    stored, metrics = arrays(runs["bar_scored"]), result(runs["bar_scored"])["metrics"]
    for name, n in ((FGSM, 90), (PGD, 40), ("noise", 90)):
        clean, other = (-stored[key].astype(np.float64).max(1) for key in ("test.log_probs", f"ood.{name}.log_probs"))
        found = metrics[f"ood_auroc[msp].{name}"]
        assert found["value"] == pytest.approx(auroc(clean[:n], other), abs=1e-12)
        assert found["extra"] == {"n_id": n, "n_ood": len(other)}


def test_the_own_score_is_a_detector_and_its_nans_are_counted(runs):
    stored, metrics = arrays(runs["bar_scored"]), result(runs["bar_scored"])["metrics"]
    nan = {name: int(np.isnan(stored[f"{name}.score"]).sum()) for name in ("test", "ood.noise")}
    assert nan["ood.noise"] > 0
    found = metrics["ood_auroc[own].noise"]
    assert found["extra"] == {"n_id": 90, "n_ood": 50, "n_nan_id": nan["test"], "n_nan_ood": nan["ood.noise"]}
    least = [np.nan_to_num(stored[f"{name}.score"].astype(float), nan=-np.inf) for name in nan]
    assert found["value"] == auroc(*least)
    assert result(runs["bar_scored"])["score"] == "activation norm"


def test_the_adaptive_attack_lowers_the_own_score_below_that_of_the_plain_one(runs):
    metrics = result(runs["bar_scored"])["metrics"]
    assert metrics[f"ood_auroc[own].{ADAPTIVE}"]["value"] < metrics[f"ood_auroc[own].{PGD}"]["value"]
    evaded = {name: result(run)["attacks"][ADAPTIVE]["evaded"] for name, run in runs.items()}
    assert evaded == {"bar_scored": "own", "bar_samples": "mi", "bar_point": "entropy"}
    assert result(runs["bar_scored"])["attacks"][PGD]["evaded"] is None
    assert result(runs["bar_scored"])["attacks"][PGD]["examples"] == 40


def test_without_a_score_the_own_metrics_are_not_applicable_by_rule(runs):
    found = result(runs["bar_samples"])
    own = [f"{base}[own].{name}" for base in ("ood_auroc", "ood_fpr95", "ood_fpr95_id") for name in SETS]
    for name in own:
        assert found["metrics"][name]["reason"] == "the posterior has no score of its own"
    assert found["score"] is None
    point = result(runs["bar_point"])["metrics"]
    assert {point[f"ood_auroc[mi].{name}"]["reason"] for name in SETS} == {"the posterior is deterministic"}


def test_predictions_before_encoding_are_those_of_the_test_set_alone(runs):
    before = runs["bar_point"].file("before.npz")
    assert Predictions.load(before).ood == {}
    assert result(runs["bar_point"])["metrics"]["delta_nll_decode"]["state"] == "ok"


def test_rescoring_changes_nothing_and_loading_gives_everything_back(study, runs, capfd):
    assert bnnbench("rescore", "--all", "--results", study[1], "--json") == 0
    assert set(json.loads(capfd.readouterr().out).values()) == {"unchanged"}
    loaded = Predictions.load(runs["bar_scored"].file("predictions.npz"))
    assert sorted(loaded.attacked) == sorted((FGSM, PGD, ADAPTIVE))
    for key, array in loaded.arrays().items():
        np.testing.assert_array_equal(array, arrays(runs["bar_scored"])[key])


def test_a_second_run_gives_the_same_bits(study, runs, tmp_path):
    method = ["--method", "bar_scored", "--results", str(tmp_path)]
    assert bnnbench("run", study[0], *method, *INLINE) == 0
    again = arrays(Store(tmp_path).folder(runs["bar_scored"].id))
    first = arrays(runs["bar_scored"])
    assert again.keys() == first.keys()
    for key, array in first.items():
        assert array.tobytes() == again[key].tobytes(), key


COLUMNS = f"ood_auroc[own].noise,ood_auroc[entropy].{PGD},attacked_accuracy.{ADAPTIVE}"


def test_tables_show_one_column_per_set(study, tmp_path, capfd):
    flags = ["--results", study[1], "--out", str(tmp_path)]
    assert bnnbench("leaderboard", study[0], *flags, "--columns", COLUMNS, "--json") == 0
    (table,) = json.loads(capfd.readouterr().out)["tables"]
    assert table["columns"] == COLUMNS.split(",")
    own = {row["label"]: row["metrics"]["ood_auroc[own].noise"]["state"] for row in table["rows"]}
    assert own == {"bar_samples": "na", "bar_scored": "ok", "bar_point": "na"}
    assert f"| attacked\\_accuracy.{ADAPTIVE} % |" in (tmp_path / "leaderboard.md").read_text()
    html = (tmp_path / "leaderboard.html").read_text()
    assert f"ood_auroc[entropy].{PGD}" in html
    assert f",attacked_accuracy.{ADAPTIVE},1,fraction,up,ok," in (tmp_path / "leaderboard.csv").read_text()
    assert bnnbench("leaderboard", study[0], *flags, "--columns", "accuracy,attacked_accuracy") == 0
    out = capfd.readouterr().out
    assert f"attacked_accuracy.{FGSM} %" in out
    assert f"attacks={FGSM},{PGD},{ADAPTIVE}" in out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("name", "an OOD set cannot be called 'a/b'"),
        ("shape", "the OOD set 'noise' is none: inputs must be float32 (n, C, H, W); got torch.float32 (50, 3, 3)"),
        ("range", "input_range must be black and white of shape (1,) with black < white"),
        ("outside", "test inputs lie outside its input_range"),
    ],
)
def test_a_task_that_breaks_the_contract_is_told_how(tmp_path, capfd, fault, words):
    study = ["--task", f"bars: {{fault: {fault}}}", "--network", "barnet", "--method", "bar_samples: {members: 1}"]
    assert bnnbench("run", *study, "--draws", "2", "--attack", "fgsm", "--results", str(tmp_path), *INLINE) == 1
    (state,) = [Store(tmp_path).folder(run_id).state() for run_id in Store(tmp_path).ids()]
    assert words in state.detail["message"]
