"""What runs to do will take, from finished ones: the same but for the seed counts, everything else stays unknown."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.main import main
from benchmark.estimate import Estimates, Kinds, estimates_of, slug_of
from benchmark.plan import plan
from benchmark.runfolder import RunFolder, State
from benchmark.store import Status, Store, to_run
from benchmark.study import study_from_flags

EPOCHS = 2
FLAGS = {"tasks": ["digits"], "networks": ["mlp-16"], "methods": [{"map": {"epochs": EPOCHS}}]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder in which `map` is finished for seed 0."""
    pytest.importorskip("sklearn.datasets")  # imported here once, instead of in every process of the run
    results = tmp_path_factory.mktemp("finished")
    arguments = ["--task", "digits", "--network", "mlp-16", "--method", f"map: {{epochs: {EPOCHS}}}"]
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments, "--launcher", "inline", "--results", str(results), "--json"])
    assert not ended.value.code
    return results


class CountingStore(Store):
    """Counts what is read from disk."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folders: list[str] = []
        self.listings = 0

    def folder(self, run_id: str) -> RunFolder:
        self.folders.append(run_id)
        return super().folder(run_id)

    def ids(self) -> list[str]:
        self.listings += 1
        return super().ids()


def estimated(store: Store, **flags: Any) -> Estimates:
    planned = plan(study_from_flags({**FLAGS, **flags}))
    statuses = store.statuses(planned.specs)
    return estimates_of(to_run(planned, statuses), planned.specs, statuses, store)


def seconds_of(result: dict[str, Any]) -> float:
    seconds = result["seconds"]
    predicted = seconds["predict"] + seconds["detection"] + seconds["shift"]
    return float(result["metrics"]["train_seconds"]["value"] + predicted)


def only_result(results: Path) -> dict[str, Any]:
    store = Store(results)
    (run_id,) = store.ids()
    result = store.folder(run_id).result()
    assert result is not None
    return result


def test_other_seeds_take_what_the_finished_seed_took(finished: Path) -> None:
    estimates, result = estimated(Store(finished), seeds=3), only_result(finished)
    assert len(estimates.pending) == 2
    assert not estimates.unknown
    (total,) = estimates.devices()
    assert total.seconds == pytest.approx(2 * seconds_of(result))
    assert total.finished == 1
    assert total.device == f"{result['environment']['processor']}, 1 thread"


def test_a_finished_run_outside_of_the_study_counts_as_well(finished: Path) -> None:
    estimates = estimated(Store(finished), seeds=[7])
    (run_id,) = estimates.pending
    (timing,) = estimates.of(run_id)
    assert timing.seconds == pytest.approx(seconds_of(only_result(finished)))
    assert timing.source == "one finished run"


@pytest.mark.parametrize(
    "other",
    [
        {"methods": [{"map": {"epochs": EPOCHS + 1}}]},
        {"protocol": {"budget": 2.0}},
        {"protocol": {"draws": 5}},
        {"networks": ["mlp-32"]},
        {"methods": ["map_finetuned"]},
    ],
)
def test_what_differs_in_more_than_the_seed_has_no_timing(finished: Path, other: dict[str, Any]) -> None:
    estimates = estimated(Store(finished), seeds=[1], **other)
    assert estimates.pending
    assert set(estimates.unknown) == set(estimates.pending)
    assert estimates.devices() == []


def test_kinds_of_device_are_kept_apart_and_averaged_each(finished: Path) -> None:
    planned = plan(study_from_flags({**FLAGS, "seeds": 5}))
    result = only_result(finished)
    made = [("GPU A", 10.0), ("GPU A", 30.0), ("GPU B", 4.0)]
    statuses = {}
    for index, run_id in enumerate(planned.specs):
        if index >= len(made):
            statuses[run_id] = Status("new", State("new"))
            continue
        detail = copy.deepcopy(result)
        detail["device"], seconds = made[index]
        detail["metrics"]["device_hours"]["value"] = seconds / 3600
        detail["seconds"] = {"encode": 9.0, "predict": 0.5, "detection": 0.3, "shift": 0.2}
        statuses[run_id] = Status("done", State("ok", 1, detail))
    estimates = estimates_of(to_run(planned, statuses), planned.specs, statuses, Store(finished))
    seconds = {total.device: (total.seconds, total.finished) for total in estimates.devices()}
    assert seconds == {"GPU A": (2 * 21.0, 2), "GPU B": (2 * 5.0, 1)}


def test_a_result_that_does_not_say_on_which_device_it_was_made_is_no_timing(finished: Path) -> None:
    planned = plan(study_from_flags({**FLAGS, "seeds": 2}))
    first, second = planned.specs
    for known, expected in (({"latency": {"device": "GPU A"}}, ["GPU A"]), ({"latency": None}, [])):
        result = only_result(finished) | {"device": None} | known
        statuses = {first: Status("done", State("ok", 1, result)), second: Status("new", State("new"))}
        estimates = estimates_of([planned.specs[second]], planned.specs, statuses, Store(finished / "none"))
        assert [total.device for total in estimates.devices()] == expected


def test_a_damaged_result_is_passed_over(finished: Path, tmp_path: Path) -> None:
    run = Store(tmp_path).folder(only_result(finished)["id"])
    run.path.mkdir(parents=True)
    run.file("result.json").write_text('{"spec": {}, "digest":"00"}')
    assert len(estimated(Store(tmp_path), seeds=[1]).unknown) == 1


def test_only_folders_whose_names_could_match_are_read(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "runs" / f"digits.resnet20.map.s{number}-0123456789ab").mkdir(parents=True)
    (tmp_path / "runs" / "digits.mlp-16.map.s0-0123456789ab").mkdir()
    store = CountingStore(tmp_path)
    estimated(store, seeds=[1, 2])
    assert store.folders == ["digits.mlp-16.map.s0-0123456789ab"]


def test_the_results_of_the_plan_itself_are_not_read_twice(finished: Path) -> None:
    store = CountingStore(finished)
    estimated(store, seeds=3)
    assert len(store.folders) == 1
    assert store.listings == 1


def test_seeds_are_of_one_kind_with_what_they_need_and_other_settings_of_a_need_are_not(tmp_path: Path) -> None:
    methods = ["deep_ensemble", {"map": {"epochs": 3}}]
    planned = plan(study_from_flags({**FLAGS, "methods": methods, "seeds": 2}))
    longer = plan(study_from_flags({**FLAGS, "methods": methods, "seeds": 2, "defaults": {"map": {"batch_size": 7}}}))
    kinds: dict[str, set[str]] = {}
    for each in (planned, longer):
        of = Kinds(each.specs, Store(tmp_path))
        for spec in each.rows.values():
            kinds.setdefault(spec.method.name, set()).add(of.of(spec.to_json()))
    assert {name: len(found) for name, found in kinds.items()} == {"deep_ensemble": 2, "map": 2}


def test_hours_are_those_of_all_devices_and_kinds_of_several_are_kept_apart(finished: Path) -> None:
    planned = plan(study_from_flags({**FLAGS, "seeds": 3}))
    statuses = {}
    for index, run_id in enumerate(planned.specs):
        detail = copy.deepcopy(only_result(finished))
        detail["device"] = "GPU A"
        detail["seconds"] = {"predict": 0.0}
        detail["environment"]["operation"]["devices"] = 4 if index else 1
        detail["metrics"]["device_hours"]["value"] = 4.0 if index else 1.0
        statuses[run_id] = Status("done", State("ok", 1, detail)) if index < 2 else Status("new", State("new"))
    estimates = estimates_of(to_run(planned, statuses), planned.specs, statuses, Store(finished))
    assert {total.device: total.seconds / 3600 for total in estimates.devices()} == {"GPU A": 1.0, "4 x GPU A": 4.0}


def test_the_slug_of_a_run_keeps_names_with_dots() -> None:
    assert slug_of("digits.timm_vit.s2.augreg.map.s11-0123456789ab") == "digits.timm_vit.s2.augreg.map"
