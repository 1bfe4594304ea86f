"""The leaderboard: records grouped to tables, blocks and rows. Pure; every view shows this one object."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmark.files import canonical_json
from benchmark.identity import Part
from benchmark.leaderboard.cell import Cell, cell
from benchmark.leaderboard.columns import BY_NAME, FLOORS, Column, check_sort, choose, column, metrics_in
from benchmark.leaderboard.comparable import withheld_columns
from benchmark.leaderboard.names import row_names, table_titles
from benchmark.leaderboard.pause import without_garbage_collection
from benchmark.leaderboard.ranking import marks, natural, order
from benchmark.leaderboard.records import Record, part_text
from benchmark.leaderboard.reference import COMPARED, reference_notes
from benchmark.leaderboard.versions import metric_versions
from benchmark.metrics.record import Direction
from benchmark.statistics import Mark


@dataclass(frozen=True)
class Row:
    """A method on one network of a table: its runs over seeds and their cells.

    cells: every column of the table, the noise floors beside calibration errors, and what the rows are sorted by.
    """

    label: str
    network: str
    method: Part
    records: tuple[Record, ...]
    cells: Mapping[str, Cell]
    marks: Mapping[str, frozenset[Mark]] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """Seeds with a result."""
        return sum(record.finished for record in self.records)

    @property
    def ranked(self) -> bool:
        """Whether its cells compete for being the best of their column."""
        return all(record.ranked for record in self.records)

    @property
    def coverage(self) -> str:
        """Seeds with a result out of those of the study: `4/5`."""
        return f"{self.finished}/{len(self.records)}"

    @property
    def draws(self) -> tuple[int, ...]:
        """S of its results; more than one value only when seeds differ."""
        return tuple(sorted({record.draws for record in self.records if record.draws is not None}))

    @property
    def stale(self) -> tuple[Record, ...]:
        """Runs whose result was made by other code than today's."""
        return tuple(record for record in self.records if record.status == "stale")

    @property
    def missing(self) -> tuple[Record, ...]:
        """Runs without a result."""
        return tuple(record for record in self.records if not record.finished)

    def calibrated(self, metric: str) -> bool:
        """Whether a calibration error cannot be told from that of a calibrated predictor: mean at or below the mean of
        the 95% noise bound over the seeds."""
        return metric in FLOORS and not_distinguishable(self.cells[metric], self.cells.get(f"{FLOORS[metric]}95"))


@dataclass(frozen=True)
class Block:
    """The rows of one network, in the order of the table."""

    network: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """All that may be compared: one task with its settings and data, one protocol.

    title: the task, with the settings that tell it from other tables of the same task.
    notes: what a reader must know about single columns.
    """

    title: str
    task: Part
    fingerprint: str
    protocol: Mapping[str, Any]
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all blocks."""
        return tuple(row for block in self.blocks for row in block.rows)

    @cached_property
    def withheld(self) -> dict[str, str]:
        """Metrics that this table does not show, and why."""
        return withheld_columns(record for row in self.rows for record in row.records)

    def cell(self, row: Row, metric: str) -> Cell:
        """Any metric of a row, shown as a column or not."""
        return row.cells[metric] if metric in row.cells else cell(metric, row.records, self.withheld)


@dataclass(frozen=True)
class Leaderboard:
    """One aggregate, many views. `title`: of the study, may be empty; `sort`: what the rows are sorted by, with `-` for
    worst first; `versions`: metric -> version."""

    title: str
    tables: tuple[Table, ...]
    sort: str
    versions: Mapping[str, int]

    @property
    def heading(self) -> str:
        """`Leaderboard: digits`."""
        return f"Leaderboard: {self.title}" if self.title else "Leaderboard"

    @property
    def sort_text(self) -> str:
        """What the rows are sorted by, in words."""
        return f"{self.sort[1:]}, worst first" if self.sort.startswith("-") else self.sort

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all tables."""
        return tuple(row for table in self.tables for row in table.rows)

    @property
    def records(self) -> tuple[Record, ...]:
        """All runs, in the order of rows and seeds."""
        return tuple(record for row in self.rows for record in row.records)

    @property
    def missing(self) -> tuple[Record, ...]:
        """Runs without a result, in the order of rows and seeds."""
        return tuple(record for record in self.records if not record.finished)


@without_garbage_collection
def build(
    records: Iterable[Record], columns: Sequence[str] | None = None, sort: str = "nll", title: str = ""
) -> Leaderboard:
    """Group runs into tables (task, data and protocol), blocks (network) and rows (method), and aggregate over seeds.

    columns: names of metrics; None is the main table, names with `+` are added to it (see `columns.choose`).
    sort: a metric, best first by its own direction, or `method` for names; a leading `-` turns the order round.
        Failed and n/a rows come last either way.
    The result does not depend on the order of `records`.

    Raises:
        ConfigError: a column or the sort order is unknown, or the runs hold two versions of one metric.
    """
    runs = sorted({record.run: record for record in records}.values(), key=lambda record: record.run)
    versions = metric_versions(runs)
    check_sort(sort.removeprefix("-"), runs)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in runs:
        spec = record.spec
        groups[canonical_json([part_text(spec.task), spec.fingerprint, spec.protocol])].append(record)
    titles = table_titles({key: group[0].spec for key, group in groups.items()})
    everywhere = metrics_in(runs)
    shown = [_table(titles[key], group, choose(columns, group, everywhere), sort) for key, group in groups.items()]
    tables = sorted(shown, key=lambda table: (natural(table.title), part_text(table.task), table.fingerprint))
    return Leaderboard(title, tuple(tables), sort, versions)


def not_distinguishable(error: Cell, bound: Cell | None) -> bool:
    """Whether the mean error is at or below the mean noise bound; False when either has no finite mean."""
    if error.interval is None or bound is None or bound.interval is None:
        return False
    return error.interval.mean <= bound.interval.mean


def _table(title: str, records: list[Record], columns: tuple[Column, ...], sort: str) -> Table:
    withheld = withheld_columns(records)
    networks: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        networks[part_text(record.spec.network)].append(record)
    labels = _network_labels({key: group[0].spec.network for key, group in networks.items()})
    blocks = [_block(labels[key], group, columns, sort, withheld) for key, group in networks.items()]
    spec = records[0].spec
    return Table(
        title,
        spec.task,
        spec.fingerprint,
        spec.protocol,
        columns,
        tuple(sorted(blocks, key=lambda block: natural(block.network))),
        (
            *(why for metric, why in withheld.items() if any(metric == each.name for each in columns)),
            *(reference_notes(records) if any(each.name in COMPARED for each in columns) else ()),
        ),
    )


def _network_labels(parts: Mapping[str, Part]) -> dict[str, str]:
    """Names of networks with their settings; in full where these alone would say the same of two."""
    plain = {key: part.label() for key, part in parts.items()}
    several = {label for label, number in Counter(plain.values()).items() if number > 1}
    return {key: parts[key].label(precise=label in several) for key, label in plain.items()}


def _block(
    network: str, records: list[Record], columns: tuple[Column, ...], sort: str, withheld: Mapping[str, str]
) -> Block:
    metrics = _metrics_of(columns, sort)
    rows = {
        named.key: Row(
            named.label,
            network,
            named.records[0].spec.method,
            named.records,
            {metric: cell(metric, named.records, withheld) for metric in metrics},
        )
        for named in row_names(records)
    }
    marked = _marks({key: row for key, row in rows.items() if row.ranked}, columns)
    ordered = sorted(rows, key=lambda key: (natural(rows[key].label), key), reverse=sort == f"-{BY_NAME}")
    name, worst_first = sort.removeprefix("-"), sort.startswith("-")
    if name != BY_NAME:
        direction = column(name).direction
        ordered.sort(key=lambda key: order(rows[key].cells[name], direction, worst_first))  # stable: ties go by name
    return Block(network, tuple(_with_marks(rows[key], marked.get(key, {})) for key in ordered))


def _metrics_of(columns: Iterable[Column], sort: str) -> list[str]:
    """What a row needs: its columns, the floors that stand beside them, the sort key."""
    names = [each.name for each in columns]
    floors = [name for each in names if each in FLOORS for name in (FLOORS[each], f"{FLOORS[each]}95")]
    by = sort.removeprefix("-")
    return list(dict.fromkeys([*names, *floors, *([] if by == BY_NAME else [by])]))


def _marks(rows: Mapping[str, Row], columns: Iterable[Column]) -> dict[str, dict[str, frozenset[Mark]]]:
    """Row key -> column -> marks.

    A calibration error that cannot be told from calibration is no candidate; and where one row is as good as can be,
    marking the best of the others would mislead, so that the column has no marks. Own training seconds have none
    either: a method that adds little to an expensive base run is not the fastest.
    """
    marked: dict[str, dict[str, frozenset[Mark]]] = defaultdict(dict)
    for each in columns:
        if each.name == "train_seconds":
            continue
        direction: Direction = each.direction
        solved = any(row.calibrated(each.name) and row.cells[each.name].complete for row in rows.values())
        for key, found in marks({key: row.cells[each.name] for key, row in rows.items()}, direction, solved).items():
            marked[key][each.name] = found
    return marked


def _with_marks(row: Row, found: Mapping[str, frozenset[Mark]]) -> Row:
    return Row(row.label, row.network, row.method, row.records, row.cells, dict(found))
