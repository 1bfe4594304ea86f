"""The leaderboard as GitHub Markdown."""

from __future__ import annotations

import re

from benchmark.leaderboard import text
from benchmark.leaderboard.table import Block, Leaderboard, Row, Table


def as_markdown(leaderboard: Leaderboard, per_seed: bool = False) -> str:
    """Tables per task and network; the best in bold, the second underlined; runs without a result listed at the end."""
    parts = [f"# {escape(leaderboard.heading)}", *(_table(table, per_seed) for table in leaderboard.tables)]
    if not leaderboard.tables:
        parts.append("No runs.")
    if leaderboard.missing:
        parts.append(_missing(leaderboard))
    notes = [
        _order(leaderboard),
        *text.legend(leaderboard),
        *text.footnotes(leaderboard),
        text.version_line(leaderboard),
    ]
    parts.append("\n".join(f"- {escape(line)}" for line in notes))
    return "\n\n".join(parts) + "\n"


def escape(content: str) -> str:
    """Text that Markdown shows as it is, in a cell of a table too."""
    visible = re.sub(r"([\\`*_{}\[\]<>|~#])", r"\\\1", content)
    return " ".join(visible.split())


def _order(leaderboard: Leaderboard) -> str:
    marks = (
        "bold: best, and all whose paired 95% interval against it contains 0; underlined: second, or best of few seeds"
    )
    return f"sorted by {leaderboard.sort_text}; {marks}"


def _table(table: Table, per_seed: bool) -> str:
    blocks = [_block(table, block, per_seed) for block in table.blocks]
    notes = [f"- {escape(note)}" for note in table.notes]
    return "\n\n".join(
        [f"## {escape(table.title)}", escape(text.caption(table)), *blocks, *(["\n".join(notes)] if notes else [])]
    )


def _block(table: Table, block: Block, per_seed: bool) -> str:
    head = ["method", *(column.title for column in table.columns), "S", "n/N"]
    lines = [[escape(each) for each in head], ["---", *["---:"] * (len(head) - 1)]]
    for row in block.rows:
        lines.append(_row(table, row))
        if per_seed:
            lines += _seed_rows(table, row)
    return "\n".join([f"### {escape(block.network)}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _row(table: Table, row: Row) -> list[str]:
    label = escape(row.label) + (f" {text.STALE}" if row.stale else "")
    return [label, *(_cell(row, column.name) for column in table.columns), text.draws_text(row), row.coverage]


def _cell(row: Row, metric: str) -> str:
    shown, marks = escape(text.cell_text(row, metric)), row.marks.get(metric, frozenset())
    if "second" in marks:
        shown = f"<ins>{shown}</ins>"
    return f"**{shown}**" if "best" in marks else shown


def _seed_rows(table: Table, row: Row) -> list[list[str]]:
    return [
        [
            f"&nbsp;&nbsp;seed {record.spec.seed}" + (f" {text.STALE}" if record.status == "stale" else ""),
            *(escape(text.seed_text(column.name, row.cells[column.name].values[i])) for column in table.columns),
            "" if record.draws is None else str(record.draws),
            "",
        ]
        for i, record in enumerate(row.records)
    ]


def _missing(leaderboard: Leaderboard) -> str:
    lines = [f"- `{record.run}`: {escape(text.missing_text(record))}" for record in leaderboard.missing]
    return "\n".join([f"## {escape(text.missing_summary(leaderboard.missing))}", "", *lines])
