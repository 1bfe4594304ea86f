"""The leaderboard on a terminal: rich tables that fit the width by wrapping columns into further tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.leaderboard import text
from benchmark.leaderboard.table import Leaderboard, Row, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

LISTED = 10
"""Runs without a result that are named; the rest is counted."""
PLAIN_WIDTH = 120
PADDING = 2
MIN_LABEL = 12
"""Row labels are folded to no less than this."""
BEST, SECOND = "*", "°"
"""Marks where there is neither bold nor underline."""


def print_terminal(leaderboard: Leaderboard, per_seed: bool = False, console: Console | None = None) -> None:
    """Print all tables, the runs without a result, and what the signs mean; on standard output unless told otherwise.

    Numbers are never cut: columns that do not fit the console's width go into a further table with the same rows.
    """
    console = console or _standard_output()
    if not leaderboard.tables:
        console.print("No runs.")
        return
    for table in leaderboard.tables:
        console.print(_styled(table.title, "bold"), soft_wrap=True)
        console.print(_styled(text.caption(table), "dim"), soft_wrap=True)
        for part in _parts(table, console, per_seed):
            console.print(part, crop=False)
            console.print()
        for note in table.notes:
            console.print(_styled(note, "dim"), soft_wrap=True)
    _print_missing(leaderboard, console)
    legend = text.legend(leaderboard)
    if any(row.marks for row in leaderboard.rows) and not console.is_terminal:
        legend.insert(
            0,
            f"{BEST} best, or not separated from it by the paired 95% interval; {SECOND} second, or best of few seeds",
        )
    for line in [*legend, *text.footnotes(leaderboard), text.version_line(leaderboard)]:
        console.print(_styled(line, "dim"), soft_wrap=True)


def as_text(leaderboard: Leaderboard, width: int = 100, per_seed: bool = False) -> str:
    """What is printed when the output is not a terminal: plain text, no colours."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None, legacy_windows=False)
    print_terminal(leaderboard, per_seed, console)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _standard_output() -> Console:
    """A terminal at its own width; anything else gets plain text at a fixed one, so that files do not depend on it."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH, color_system=None)


def _parts(table: Table, console: Console, per_seed: bool) -> list[RichTable]:
    """The table as one or more tables that fit; every one has the labels and the coverage."""
    lines = _lines(table, console.is_terminal, per_seed)
    head, body = lines[0], lines[1:]
    widths = [max(line[i].cell_len for line in lines) for i in range(len(head))]
    label = max(MIN_LABEL, min(widths[0], max(console.width // 4, MIN_LABEL)))
    groups = _wrapped(widths[2:], console.width - label - widths[1] - 2 * PADDING)
    return [_rich(head, body, [0, 1, *(i + 2 for i in group)], widths, label, console.width) for group in groups]


def _wrapped(widths: Sequence[int], room: int) -> list[list[int]]:
    """Positions of columns, split greedily into groups that fit into `room`; a column too wide stands alone."""
    groups: list[list[int]] = [[]]
    used = 0
    for i, width in enumerate(widths):
        if groups[-1] and used + width + PADDING > room:
            groups.append([])
            used = 0
        groups[-1].append(i)
        used += width + PADDING
    return groups


Line = list["Text"]


def _lines(table: Table, rich: bool, per_seed: bool) -> list[Line]:
    """Header and rows as cells of equal number; a line with one filled cell is the name of a network."""
    head = ["", "n/N", *(column.title for column in table.columns)]
    head.insert(_draws_position(table), "S")
    lines = [[_styled(each, "bold") for each in head]]
    for block in table.blocks:
        lines.append([_styled(block.network, "bold cyan"), *[_styled("", "")] * (len(head) - 1)])
        for row in block.rows:
            lines.append(_row(table, row, rich))
            if per_seed:
                lines += _seed_rows(table, row)
    return lines


def _draws_position(table: Table) -> int:
    """S stands before the costs, or last."""
    names = [column.name for column in table.columns]
    return 2 + (names.index("train_seconds") if "train_seconds" in names else len(names))


def _row(table: Table, row: Row, rich: bool) -> Line:
    complete = row.finished == len(row.records)
    cells = [
        _styled(f"  {row.label}{text.STALE if row.stale else ''}", ""),
        _styled(row.coverage, "" if complete else "yellow"),
        *(_cell(row, column.name, rich) for column in table.columns),
    ]
    cells.insert(_draws_position(table), _styled(text.draws_text(row), ""))
    return cells


def _cell(row: Row, metric: str, rich: bool) -> Text:
    shown, marks = text.cell_text(row, metric), row.marks.get(metric, frozenset())
    state = row.cells[metric].state
    if state == "failed":
        return _styled(shown, "red")
    if state == "na":
        return _styled(shown, "dim")
    if not rich:
        return _styled(shown + (BEST if "best" in marks else SECOND if marks else " "), "")
    return _styled(
        shown, " ".join(style for mark, style in (("best", "bold"), ("second", "underline")) if mark in marks)
    )


def _seed_rows(table: Table, row: Row) -> list[Line]:
    lines = []
    for i, record in enumerate(row.records):
        stale = text.STALE if record.status == "stale" else ""
        cells = [
            f"    seed {record.spec.seed}{stale}",
            "",
            *(text.seed_text(column.name, row.cells[column.name].values[i]) for column in table.columns),
        ]
        cells.insert(_draws_position(table), "" if record.draws is None else str(record.draws))
        lines.append([_styled(each, "dim") for each in cells])
    return lines


def _rich(
    head: Line, body: list[Line], positions: list[int], widths: Sequence[int], label: int, room: int
) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    needed = label + sum(widths[i] + PADDING for i in positions[1:])
    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, PADDING, 0, 0))
    if needed > room:
        shown.width = needed  # a terminal narrower than one number: let it wrap the line rather than lose digits
    shown.add_column(head[0], overflow="fold", max_width=label)
    for i in positions[1:]:
        shown.add_column(head[i], no_wrap=True, justify="right", min_width=widths[i])
    for line in body:
        shown.add_row(*(line[i] for i in positions))
    return shown


def _print_missing(leaderboard: Leaderboard, console: Console) -> None:
    missing = leaderboard.missing
    if not missing:
        return
    console.print(_styled(text.missing_summary(missing), "bold yellow"), soft_wrap=True)
    for record in missing[:LISTED]:
        console.print(_styled(f"  {record.run}  {text.missing_text(record)}", ""), soft_wrap=True)
    if len(missing) > LISTED:
        console.print(_styled(f"  ... {len(missing) - LISTED} more   (bnnbench status)", ""), soft_wrap=True)


def _styled(content: str, style: str) -> Text:
    from rich.text import Text

    return Text.assemble((content, style))  # not a style of the whole cell: an underline must not run into its padding
