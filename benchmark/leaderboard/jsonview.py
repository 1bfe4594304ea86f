"""The leaderboard as JSON: full precision, every metric, values of single seeds."""

from __future__ import annotations

from typing import Any

from benchmark.leaderboard.cell import Cell
from benchmark.leaderboard.csvview import all_metrics
from benchmark.leaderboard.records import Record
from benchmark.leaderboard.table import Leaderboard, Row, Table

SCHEMA = 1


def as_json(leaderboard: Leaderboard) -> dict[str, Any]:
    """Plain JSON types; infinity is the state `inf`, never a number. Keys with nothing to say are left out of cells."""
    return {
        "schema": SCHEMA,
        "title": leaderboard.title,
        "sort": leaderboard.sort,
        "metric_versions": dict(leaderboard.versions),
        "tables": [_table(table) for table in leaderboard.tables],
        "missing": [_missing(record) for record in leaderboard.missing],
    }


def _table(table: Table) -> dict[str, Any]:
    metrics = all_metrics(table)
    return {
        "title": table.title,
        "task": _part(table.task),
        "fingerprint": table.fingerprint,
        "protocol": dict(table.protocol),
        "columns": [column.name for column in table.columns],
        "notes": list(table.notes),
        "rows": [_row(table, row, metrics) for row in table.rows],
    }


def _part(part: Any) -> dict[str, Any]:
    return {"name": part.name, "version": part.version, "config": dict(part.config)}


def _row(table: Table, row: Row, metrics: list[str]) -> dict[str, Any]:
    return {
        "network": row.network,
        "label": row.label,
        "method": _part(row.method),
        "draws": list(row.draws),
        "finished": row.finished,
        "expected": len(row.records),
        "runs": {str(record.spec.seed): {"run": record.run, "status": record.status} for record in row.records},
        "metrics": {metric: _cell(row, table.cell(row, metric)) for metric in metrics},
    }


def _cell(row: Row, cell: Cell) -> dict[str, Any]:
    shown: dict[str, Any] = {"state": cell.state, "n": cell.n, "expected": cell.expected}
    if cell.interval is not None:
        spread = cell.interval
        shown |= {"mean": spread.mean, "spread": spread.kind}
        shown |= {key: value for key, value in (("low", spread.low), ("high", spread.high)) if value is not None}
    if row.marks.get(cell.metric):
        shown["marks"] = sorted(row.marks[cell.metric])
    if cell.metric in row.cells and row.calibrated(cell.metric):
        shown["calibrated"] = True
    shown["seeds"] = {
        str(each.seed): each.value if each.value is not None else {"state": each.state, "reason": each.reason}
        for each in cell.values
    }
    return shown


def _missing(record: Record) -> dict[str, Any]:
    detail = {key: record.detail[key] for key in ("phase", "type", "message", "last_lines") if key in record.detail}
    return {"run": record.run, "status": record.status, "note": record.note, **detail}
