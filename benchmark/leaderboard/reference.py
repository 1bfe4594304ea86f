"""Closeness to the reference predictive of a study: `agreement` and `tv` of every run with the reference of its place.

The reference (a gold standard, such as HMC) is another run of the same task, network, seed and protocol. Its own
convergence is told beside the numbers, and how far apart its own two halves are, which is about twice its own error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmark.errors import CorruptFile, PredictionError
from benchmark.leaderboard.records import Record
from benchmark.metrics.catalogue import COMPARISON_METRICS
from benchmark.metrics.record import Value
from benchmark.metrics.scoring import Predictions, SplitPredictions, compare
from benchmark.store import Store

COMPARED = tuple(metric.name for metric in COMPARISON_METRICS)
HALVES = {name: f"{name}_halves" for name in COMPARED}
"""Facts of a reference: the metric between its own two halves. Besides, `converged` and, in words, `diagnosis`."""


def with_references(records: Sequence[Record], references: Mapping[str, str], store: Store) -> list[Record]:
    """The records with `agreement` and `tv` among their metrics.

    references: run -> the run that it is compared with; runs that are not in it come back as they are. A run is `na` to
    itself, and where its reference has no result.
    """
    found: dict[str, Record] = {record.run: record for record in records}
    loaded: dict[str, SplitPredictions | str] = {}
    return [
        record
        if record.run not in references or record.result is None
        else _compared(record, found.get(references[record.run]), loaded, store)
        for record in records
    ]


def _compared(
    record: Record, reference: Record | None, loaded: dict[str, SplitPredictions | str], store: Store
) -> Record:
    results = _results(record, reference, loaded, store)
    assert record.result is not None
    return replace(record, result={**record.result, "metrics": {**record.metrics, **results}}, compared_with=reference)


def _results(
    record: Record, reference: Record | None, loaded: dict[str, SplitPredictions | str], store: Store
) -> dict[str, Any]:
    if reference is not None and reference.run == record.run:
        return _without("this is the reference")
    if reference is None or not reference.finished:
        return _without("the reference has no result" if reference is None else f"the reference is {reference.status}")
    own, other = (_test(each.run, loaded, store) for each in (record, reference))
    if isinstance(own, str) or isinstance(other, str):
        return _without(next(each for each in (own, other) if isinstance(each, str)))
    return compare(own, other)


def _without(reason: str) -> dict[str, Any]:
    return {metric.name: Value.na(reason).to_json(metric) for metric in COMPARISON_METRICS}


def _test(run: str, loaded: dict[str, SplitPredictions | str], store: Store) -> SplitPredictions | str:
    """The run's stored predictions of the test data, read once; or why there are none."""
    if run not in loaded:
        try:
            loaded[run] = Predictions.load(store.folder(run).file("predictions.npz")).test
        except (FileNotFoundError, CorruptFile, PredictionError) as error:
            loaded[run] = f"the predictions of {run} cannot be read: {error}"
    return loaded[run]


def reference_notes(records: Iterable[Record]) -> tuple[str, ...]:
    """What a reader of the columns must know, a line per reference: its name, whether it converged, its error."""
    by_label: dict[str, dict[str, Record]] = {}
    for record in records:
        other = record.compared_with
        if other is not None:
            by_label.setdefault(f"{other.spec.label} on {other.spec.network.name}", {})[other.run] = other
    return tuple(_note(label, list(runs.values())) for label, runs in sorted(by_label.items()))


def _note(label: str, runs: list[Record]) -> str:
    text = f"{', '.join(COMPARED)}: with the predictions of {label}"
    halves = [run.facts for run in runs if all(name in run.facts for name in HALVES.values())]
    if halves:
        agreement, tv = (sum(float(facts[name]) for facts in halves) / len(halves) for name in HALVES.values())
        data = "training" if any(facts.get("diagnosed_on") == "train" for facts in halves) else "validation"
        text += f"; its own two halves have {100 * agreement:.2f} % and {tv:.4f} on {data} data"
    text += "".join(f"; {said}" for said in dict.fromkeys(str(run.facts.get("diagnosis", "")) for run in runs) if said)
    open_ends = sum(run.facts.get("converged") is False for run in runs)
    if open_ends:
        text += f"; REFERENCE NOT CONVERGED in {open_ends} of {len(runs)} runs"
    return text
