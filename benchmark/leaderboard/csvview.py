"""Machine views in CSV: full precision, every metric, long form, so that no state hides behind an empty field."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from benchmark.files import canonical_json
from benchmark.leaderboard.cell import WITH_BASE, Cell, seed_value
from benchmark.leaderboard.columns import metrics_in
from benchmark.leaderboard.records import Record
from benchmark.leaderboard.table import Leaderboard, Row, Table
from benchmark.metrics.catalogue import metric_of

ROW_FIELDS = (
    "task",
    "task_config",
    "fingerprint",
    "protocol",
    "network",
    "method",
    "method_version",
    "method_config",
    "label",
    "metric",
    "version",
    "unit",
    "direction",
    "state",
    "mean",
    "spread",
    "low",
    "high",
    "half_width",
    "n",
    "expected",
    "coverage",
    "draws",
    "stale",
    "best",
    "second",
    "reason",
)
RUN_FIELDS = (
    "run",
    "task",
    "network",
    "method",
    "label",
    "seed",
    "status",
    "draws",
    "code",
    "metric",
    "version",
    "state",
    "value",
    "n",
    "se",
    "reason",
)


def as_csv(leaderboard: Leaderboard) -> str:
    """One line per (table, row, metric), of every metric that any run has.

    `spread` says what `low` and `high` are: value (none), range (n = 2) or t (95% t-interval). `n` of `expected` seeds
    have a number; `coverage` is that of the row's runs. `mean` is empty unless `state` is ok.
    """
    return _written(ROW_FIELDS, (line for table in leaderboard.tables for line in _table_lines(leaderboard, table)))


def runs_as_csv(leaderboard: Leaderboard) -> str:
    """One line per run and metric; a run without a result has one line without a metric."""
    labels = ((record, row.label) for row in leaderboard.rows for record in row.records)
    return _written(RUN_FIELDS, (line for record, label in labels for line in _run_lines(record, label)))


def all_metrics(table: Table) -> list[str]:
    """Every metric of the table's results and columns, `+ base` included, in the catalogue's order."""
    names = metrics_in(record for row in table.rows for record in row.records)
    shown = [column.name for column in table.columns if column.name not in (*names, WITH_BASE)]
    return [*names, *shown, WITH_BASE]


def _table_lines(leaderboard: Leaderboard, table: Table) -> Iterator[list[Any]]:
    metrics = all_metrics(table)
    place = [table.task.name, canonical_json(table.task.config), table.fingerprint, canonical_json(table.protocol)]
    for row in table.rows:
        method = [row.method.name, row.method.version, canonical_json(row.method.config), row.label]
        for metric in metrics:
            yield [*place, row.network, *method, *_cell_fields(leaderboard, row, table.cell(row, metric))]


def _cell_fields(leaderboard: Leaderboard, row: Row, cell: Cell) -> list[Any]:
    metric, spread = metric_of(cell.metric), cell.interval
    marks = row.marks.get(cell.metric, frozenset())
    numbers = [spread.mean, spread.kind, spread.low, spread.high, spread.half_width] if spread else [None] * 5
    return [
        cell.metric,
        leaderboard.versions.get(metric.name, metric.version),
        metric.unit,
        metric.direction,
        cell.state,
        *numbers,
        cell.n,
        cell.expected,
        row.coverage,
        "/".join(map(str, row.draws)),
        len(row.stale),
        int("best" in marks),
        int("second" in marks),
        "; ".join(cell.reasons),
    ]


def _run_lines(record: Record, label: str) -> Iterator[list[Any]]:
    spec = record.spec
    run = [record.run, spec.task.name, spec.network.name, spec.method.name, label, spec.seed, record.status]
    if not record.finished:
        yield [*run, None, None, None, None, "failed", None, None, None, record.detail.get("message") or record.note]
        return
    run += [record.draws, record.code]
    for name in metrics_in([record]):
        entry = record.metrics[name]
        values = [entry.get(key) for key in ("version", "state", "value", "n", "se", "reason")]
        yield [*run, name, *values]
    total = seed_value(WITH_BASE, record)
    yield [
        *run,
        WITH_BASE,
        record.metrics.get("train_seconds", {}).get("version"),
        total.state,
        total.value,
        None,
        None,
        total.reason,
    ]


def _written(fields: Iterable[str], lines: Iterable[list[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(lines)  # floats are written by repr: every bit comes back
    return out.getvalue()
