"""The data sets that planned runs read: those of task, shift and network, each once, and when they can be known."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.datasets import data_root
from benchmark.identity import Part, RunSpec
from benchmark.needed_data import data_of_runs
from benchmark.registry import load_plugin_file

SHELF = Path(__file__).parent / "cli" / "plugins" / "shelf.py"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path))
    load_plugin_file(SHELF)
    return tmp_path


def spec(seed: int = 0, *, extra: bool = False, shift: bool = False) -> RunSpec:
    return RunSpec(
        Part("shelf", 1, {"extra": extra}),
        "0" * 64,
        Part("shelfnet", 1, {}),
        Part("map", 1, {}),
        {"draws": 1, **({"shift": [1]} if shift else {})},
        seed,
    )


def names(*specs: RunSpec) -> list[str]:
    return [each.name for each in data_of_runs(specs)]


def test_runs_read_the_data_of_their_settings_and_of_shift() -> None:
    assert names() == []
    assert names(spec()) == ["shelf-books"]
    assert names(spec(extra=True), spec(1)) == ["shelf-books", "shelf-extra"]
    assert names(spec(), spec(1, shift=True)) == ["shelf-books", "shelf-dusty"]


def test_weights_are_known_once_the_tasks_files_are_there() -> None:
    (books,) = data_of_runs([spec()])
    books.prepare(data_root(), lambda line: None)
    assert names(spec(), spec(1)) == ["shelf-books", "weights-shelfnet-2"]
