"""`bnnbench status`: how runs stand, from the files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmark.cli.options import (
    echo_json,
    json_option,
    planned_from,
    plugin_option,
    results_option,
    store_at,
    study_options,
)


@click.command("status")
@study_options
@click.option("--all", "show_all", is_flag=True, help="list finished and new runs too")
@plugin_option
@results_option
@json_option
def command(results: Path, as_json: bool, show_all: bool, plugins: tuple[Path, ...], **flags: Any) -> int:
    """Show how the runs of a study stand, or all runs on disk when no study is named.

    \b
    Examples:
      bnnbench status
      bnnbench status quick
      bnnbench status quick --all --json
    """
    from benchmark.cli.matrix import console, print_status
    from benchmark.cli.watch import progress_of
    from benchmark.runfolder import FAILURES
    from benchmark.store import count, in_order_of_needs

    store = store_at(results)
    planned = planned_from(flags, store) if any(flags.values()) else None
    named = planned is not None
    specs = planned.specs if planned else in_order_of_needs(store.specs())
    statuses = store.statuses(specs)
    damaged = [] if named else [run_id for run_id in store.ids() if run_id not in specs]
    progress = {run_id: progress_of(store, run_id) for run_id, status in statuses.items() if status.name == "running"}
    bad = [status for status in statuses.values() if status.name in (*FAILURES, "corrupt")]
    if as_json:
        runs = [
            {"id": run_id, "status": status.name, "note": status.note, "attempts": status.state.attempts,
             "progress": progress.get(run_id)}
            for run_id, status in statuses.items()
        ]  # fmt: skip
        echo_json({"counts": count(statuses.values()), "runs": runs, "unreadable": damaged})
        return 1 if bad or damaged else 0
    out = console()
    for run_id, status in statuses.items():
        if show_all or status.name not in ("done", "new"):
            print_status(out, run_id, status, _progress(progress.get(run_id)))
    for run_id in damaged:
        out.print(f"[red]unreadable[/] {run_id}  its spec.json is absent or damaged; running its study again mends it",
                  soft_wrap=True)  # fmt: skip
    counts = ", ".join(f"{number} {name}" for name, number in count(statuses.values()).items())
    click.echo(f"{len(statuses)} runs under {store.runs}: {counts or 'none'}.")
    return 1 if bad or damaged else 0


def _progress(values: dict[str, Any] | None) -> str:
    if not values:
        return ""
    return f"{100 * values['done'] / max(values['total'], 1):.0f} % of fit"
