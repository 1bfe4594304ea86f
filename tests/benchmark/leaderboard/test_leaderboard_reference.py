"""Columns of closeness to a reference predictive, and rows that do not compete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leaderboard_cases import over_seeds, result, spec, values

from benchmark.identity import RunSpec
from benchmark.leaderboard import Record, as_html, as_json, as_markdown, as_text, build, collect, with_references
from benchmark.leaderboard.table import Row
from benchmark.metrics.predictions import Predictions, SplitPredictions
from benchmark.store import Store

LABELS = np.array([0, 1, 1, 0])
HMC = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
OTHER = np.array([[0.8, 0.2], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])  # one other arg-max; |p - q|: .1, 0, .2, 0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def publish(store: Store, run: RunSpec, probs: np.ndarray | None, **facts: Any) -> RunSpec:
    folder = store.folder(run.id)
    folder.create(run)
    if probs is not None:
        test = SplitPredictions(np.log(probs), LABELS)
        np.savez(folder.file("predictions.npz"), **Predictions(test, draws=1, deterministic=True).arrays())
    folder.publish(result(run, values(), facts=facts))
    return run


def compared(store: Store, *runs: RunSpec, reference: RunSpec) -> list[Record]:
    records = collect(store, {run.id: run for run in runs})
    return with_references(records, {run.id: reference.id for run in runs}, store)


def rows(records: list[Record]) -> dict[str, Row]:
    return {row.label: row for row in build(records).rows}


def test_agreement_and_total_variation_stand_in_columns_of_their_own(store: Store) -> None:
    hmc, other = publish(store, spec("hmc"), HMC), publish(store, spec("mean_field"), OTHER)
    found = rows(compared(store, hmc, other, reference=hmc))["mean_field"].cells
    assert found["agreement"].by_seed == {0: 0.75}
    assert found["tv"].by_seed == pytest.approx({0: 0.3 / 4}, abs=1e-7)


def test_the_reference_itself_has_nothing_in_them(store: Store) -> None:
    hmc, other = publish(store, spec("hmc"), HMC), publish(store, spec("mean_field"), OTHER)
    cells = rows(compared(store, hmc, other, reference=hmc))["hmc"].cells
    assert [cells[name].state for name in ("agreement", "tv")] == ["na", "na"]


def test_without_a_reference_there_are_no_such_columns(store: Store) -> None:
    run = publish(store, spec("map"), HMC)
    records = collect(store, {run.id: run})
    assert with_references(records, {}, store) == records
    [table] = build(records).tables
    assert not {"agreement", "tv"} & {each.name for each in table.columns}


@pytest.mark.parametrize("probs", [None, HMC], ids=["its predictions are gone", "it was never run"])
def test_a_reference_that_cannot_be_read_leaves_the_row_and_says_why(store: Store, probs: np.ndarray | None) -> None:
    other = publish(store, spec("mean_field"), OTHER)
    hmc = publish(store, spec("hmc"), None) if probs is None else spec("hmc")
    cell = rows(compared(store, other, *([hmc] if probs is None else []), reference=hmc))["mean_field"].cells["nll"]
    assert cell.by_seed == {0: values()["nll"]["value"]}
    records = compared(store, other, *([hmc] if probs is None else []), reference=hmc)
    entry = next(record for record in records if record.spec.method.name == "mean_field").metrics["agreement"]
    assert entry["state"] == "na"
    assert ("cannot be read" if probs is None else "no result") in entry["reason"]


def test_a_reference_that_has_not_converged_is_told_in_every_view_with_its_halves(store: Store) -> None:
    facts = {"converged": False, "agreement_halves": 0.985, "tv_halves": 0.0123, "diagnosis": "R-hat 3 (below 1.05)"}
    hmc, other = publish(store, spec("hmc"), HMC, **facts), publish(store, spec("mean_field"), OTHER)
    board = build(compared(store, hmc, other, reference=hmc))
    [note] = board.tables[0].notes
    assert "with the predictions of hmc on resnet18" in note
    assert "98.50 % and 0.0123" in note
    assert "R-hat 3 (below 1.05)" in note
    assert "REFERENCE NOT CONVERGED in 1 of 1 runs" in note
    for view in (as_text(board), as_markdown(board).replace("\\", ""), as_html(board)):
        assert "REFERENCE NOT CONVERGED" in view
    assert "agreement" in str(as_json(board))


def test_a_converged_reference_is_not_called_anything_else(store: Store) -> None:
    hmc = publish(store, spec("hmc"), HMC, converged=True)
    other = publish(store, spec("mean_field"), OTHER)
    [note] = build(compared(store, hmc, other, reference=hmc)).tables[0].notes
    assert "NOT" not in note


def test_a_control_is_shown_and_never_marked() -> None:
    records = over_seeds("map", (0.5, 0.51, 0.52)) + over_seeds("mean_field", (0.6, 0.61, 0.62))
    controls = over_seeds("hmc_unaligned", (0.1, 0.11, 0.12))
    for record in controls:
        assert record.result is not None
        record.result["facts"]["ranked"] = False  # type: ignore[index]
    found = {row.label: row for row in build([*records, *controls]).rows}
    assert found["hmc_unaligned"].marks == {}
    assert "best" in found["map"].marks["nll"]
