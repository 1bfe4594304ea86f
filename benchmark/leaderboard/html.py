"""The leaderboard as one HTML file that needs nothing else: no network, no fonts, no scripts from elsewhere."""

from __future__ import annotations

import base64
import inspect
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import CorruptFile
from benchmark.figures import read_figures
from benchmark.leaderboard import text
from benchmark.leaderboard.cell import Cell
from benchmark.leaderboard.columns import FLOORS, Column, column
from benchmark.leaderboard.names import short_settings
from benchmark.leaderboard.ranking import order
from benchmark.leaderboard.records import Record
from benchmark.leaderboard.table import Leaderboard, Row, Table
from benchmark.metrics.catalogue import METRICS
from benchmark.metrics.record import Metric

TEMPLATE = Path(__file__).with_name("leaderboard.html.j2")


def as_html(leaderboard: Leaderboard) -> str:
    """Tables with values of single seeds to unfold, runs without a result, definitions of metrics, provenance.

    The figures of the first finished seed of each row are read from its run folder and become part of the file.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        leaderboard=leaderboard,
        text=text,
        shown=_shown,
        seeds=_seeds,
        settings=short_settings,
        notes=[*text.legend(leaderboard), *text.footnotes(leaderboard), text.version_line(leaderboard)],
        definitions=_definitions(leaderboard),
        provenance=_provenance(leaderboard.records),
    )


@dataclass(frozen=True)
class _Shown:
    """A cell ready for the template. `place` orders the column: the best is first, whatever the direction."""

    text: str
    css: str
    hover: str
    place: str


def _shown(row: Row, each: Column) -> _Shown:
    cell, found = row.cells[each.name], row.marks.get(each.name, frozenset())
    css = [cell.state, *sorted(found), *(["incomplete"] if text.is_incomplete(cell) else [])]
    group, key = order(cell, each.direction)
    return _Shown(text.cell_text(row, each.name), " ".join(css), _hover(cell), f"{group} {key!r}")


def _hover(cell: Cell) -> str:
    """Why there is no finite number, or how precise the number is."""
    if cell.interval is None:
        infinite = (
            f"infinite for {sum(each.state == 'inf' for each in cell.values)} of {cell.n} seeds" if cell.n else ""
        )
        return "; ".join([*([infinite] if infinite else []), *cell.reasons])
    return f"{cell.interval.mean!r} over {cell.n} of {cell.expected} seeds"


@dataclass(frozen=True)
class _Figure:
    """A figure ready for the template. uri: the image itself; shown as an image, nothing in it can run."""

    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class _Seed:
    """One run of a row, ready for the template. `cells` are (text, hover) by column. figure_note: why there is no
    figure although there should be one."""

    record: Record
    cells: list[tuple[str, str]]
    figures: list[_Figure]
    figure_note: str = ""


def _seeds(table: Table, row: Row) -> list[_Seed]:
    def one(position: int, name: str) -> tuple[str, str]:
        value = row.cells[name].values[position]
        error = f"{value.value!r}, test-set standard error {value.se:.2g}" if value.se is not None else value.reason
        return text.seed_text(name, value), error

    shown = next((record for record in row.records if record.finished), None)  # those of all seeds would be too much
    seeds = []
    for i, record in enumerate(row.records):
        figures, note = _figures(row, record) if record is shown else ([], "")
        seeds.append(_Seed(record, [one(i, each.name) for each in table.columns], figures, note))
    return seeds


def _figures(row: Row, record: Record) -> tuple[list[_Figure], str]:
    """The figures of a run; none of them, and what is wrong, when one is damaged."""
    if record.figures is None:
        return [], ""
    try:
        found = read_figures(record.figures)
    except CorruptFile as error:
        return [], str(error)
    place = f"{row.label} on {row.network}, seed {record.spec.seed}"
    return [
        _Figure(
            f"data:image/svg+xml;base64,{base64.b64encode(each.svg).decode()}", f"{each.name}: {place}", each.caption
        )
        for each in found
    ], ""


@dataclass(frozen=True)
class _Definition:
    name: str
    version: int
    unit: str
    direction: str
    about: str
    reference: str


def _definitions(leaderboard: Leaderboard) -> list[_Definition]:
    """What every shown metric means, from the metric itself, in the catalogue's order."""
    shown = {column(each.name).name.partition(".")[0] for table in leaderboard.tables for each in table.columns}
    shown |= {floor for name in shown & FLOORS.keys() for floor in (FLOORS[name], f"{FLOORS[name]}95")}
    return [
        _Definition(
            metric.name,
            leaderboard.versions.get(metric.name, metric.version),
            metric.unit or "–",
            {"up": "larger is better", "down": "smaller is better", "zero": "zero is best"}.get(metric.direction, "–"),
            _about(metric),
            metric.reference,
        )
        for metric in METRICS.values()
        if metric.name in shown
    ]


def _about(metric: Metric) -> str:
    """The first paragraph of the documentation of what computes it."""
    return " ".join((inspect.getdoc(metric.compute) or "").partition("\n\n")[0].split())


def _provenance(records: tuple[Record, ...]) -> dict[str, list[tuple[str, int]]]:
    """Which code, hardware and packages stand behind the results, with the number of runs of each."""
    found: dict[str, Counter[str]] = {}

    def add(name: str, value: object) -> None:
        if value not in (None, ""):
            found.setdefault(name, Counter())[str(value)] += 1

    for record in records:
        if record.result is None:
            continue
        environment = record.result.get("environment") or {}
        add("code digest", record.code)
        add("latency device", (record.result.get("latency") or {}).get("device"))
        for name in ("processor", "platform", "python"):
            add(name, environment.get(name))
        for package, version in sorted((environment.get("packages") or {}).items()):
            add(package, version)
    return {name: sorted(counts.items(), key=lambda item: (-item[1], item[0])) for name, counts in found.items()}
