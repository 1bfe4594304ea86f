"""The leaderboard: `collect` runs, `build` one aggregate, show it in many views.

    records = collect(store, plan.rows, store.statuses(plan.specs))
    records = with_references(records, plan.references, store)
    leaderboard = build(records, sort="nll")
    print_terminal(leaderboard)
    write_all(leaderboard, store.root / "leaderboard" / name)

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.leaderboard.csvview import as_csv, runs_as_csv
    from benchmark.leaderboard.html import as_html
    from benchmark.leaderboard.jsonview import as_json
    from benchmark.leaderboard.markdown import as_markdown
    from benchmark.leaderboard.records import Record, collect
    from benchmark.leaderboard.reference import with_references
    from benchmark.leaderboard.table import Leaderboard, build
    from benchmark.leaderboard.terminal import as_text, print_terminal
    from benchmark.leaderboard.write import write_all

_HOME = {
    "benchmark.leaderboard.records": ("Record", "collect"),
    "benchmark.leaderboard.csvview": ("as_csv", "runs_as_csv"),
    "benchmark.leaderboard.html": ("as_html",),
    "benchmark.leaderboard.jsonview": ("as_json",),
    "benchmark.leaderboard.markdown": ("as_markdown",),
    "benchmark.leaderboard.reference": ("with_references",),
    "benchmark.leaderboard.table": ("Leaderboard", "build"),
    "benchmark.leaderboard.terminal": ("as_text", "print_terminal"),
    "benchmark.leaderboard.write": ("write_all",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Leaderboard",
    "Record",
    "as_csv",
    "as_html",
    "as_json",
    "as_markdown",
    "as_text",
    "build",
    "collect",
    "print_terminal",
    "runs_as_csv",
    "with_references",
    "write_all",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'benchmark.leaderboard' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
