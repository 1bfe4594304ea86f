"""A plan as a table: one row per (task, network, method), one mark per seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table

from benchmark.identity import RunSpec
from benchmark.plan import Plan
from benchmark.store import Status

STYLES = {
    "done": "green",
    "running": "cyan",
    "stale": "yellow",
    "new": "default",
    "excluded": "dim",
    "skipped": "dim",
    "lost": "magenta",
    "killed": "magenta",
    "timeout": "magenta",
    "corrupt": "magenta",
}


def print_matrix(plan: Plan, statuses: Mapping[str, Status]) -> None:
    """Print rows of the study with counts of each status over seeds."""
    cells: dict[tuple[str, str, str], list[str]] = {}
    for run_id, spec in plan.rows.items():
        key = _row(spec)
        cells.setdefault(key, []).append(statuses[run_id].name)
    for spec in plan.excluded:
        cells.setdefault(_row(spec), []).append("excluded")
    table = Table(box=box.SIMPLE_HEAD, title=f"study {plan.study.name}", title_justify="left", pad_edge=False)
    for column in ("task", "network", "method", f"{len(plan.study.seeds)} seeds"):
        table.add_column(column, no_wrap=column != "method")
    for (task, network, method), names in cells.items():
        marks = [f"[{style_of(name)}]{number} {name}[/]" for name, number in Counter(names).items()]
        table.add_row(task, network, method, ", ".join(marks))
    console().print(table)


def _row(spec: RunSpec) -> tuple[str, str, str]:
    """Task, network with its settings, method with its settings."""
    return spec.task.name, spec.network.label(), spec.label


def print_runs(plan: Plan, statuses: Mapping[str, Status]) -> None:
    """Print every run on a line of its own: status, id, note."""
    out = console()
    for cell in plan.cells:
        print_status(out, cell.spec.id, statuses[cell.spec.id], "" if cell.row else "needed by others")
    for spec in plan.excluded:
        out.print(f"[dim]{'excluded':<10} {spec.id}[/]", highlight=False, soft_wrap=True)


def print_status(out: Console, run_id: str, status: Status, remark: str = "") -> None:
    """One line: status, id, what is worth knowing."""
    note = "; ".join(text for text in (status.note, remark) if text)
    text = f"[{style_of(status.name)}]{status.name:<10}[/] {run_id}"
    out.print(text, f"[dim]{_escaped(note)}[/]" if note else "", highlight=False, soft_wrap=True)


def style_of(status: str) -> str:
    """The colour of a status; failures are red."""
    return STYLES.get(status, "red")


def console(file: IO[str] | None = None) -> Console:
    """The console for tables, on standard output unless told otherwise: plain and wide when piped."""
    out = Console(highlight=False, file=file)
    return out if out.is_terminal else Console(width=max(out.width, 120), highlight=False, file=file)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
