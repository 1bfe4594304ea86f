"""`bnnbench leaderboard`: the tables of a study, on screen and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmark.cli.options import json_option, planned_from, plugin_option, results_option, store_at, study_options


@click.command("leaderboard")
@study_options
@click.option("--sort", default="nll", show_default=True, help="metric to sort by; a leading '-' reverses")
@click.option("--columns", help="metrics in place of the usual ones (nll,brier), or beside them (+brier,+aurc)")
@click.option("--per-seed", is_flag=True, help="show the value of every seed")
@click.option(
    "--format", "form", type=click.Choice(["terminal", "markdown", "csv"]), default="terminal", show_default=True
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="folder for the files")
@plugin_option
@results_option
@json_option
def command(
    results: Path,
    as_json: bool,
    sort: str,
    columns: str | None,
    per_seed: bool,
    form: str,
    out: Path | None,
    plugins: tuple[Path, ...],
    **flags: Any,
) -> None:
    """Print the tables of a study (or of all runs on disk) and write them as Markdown, CSV, JSON and HTML.

    \b
    Examples:
      bnnbench leaderboard quick
      bnnbench leaderboard quick --sort ece15 --per-seed
      bnnbench leaderboard quick --format markdown > table.md
    """
    from benchmark import leaderboard
    from benchmark.store import in_order_of_needs

    store = store_at(results)
    planned = planned_from(flags, store) if any(flags.values()) else None
    specs = planned.rows if planned else in_order_of_needs(store.specs())
    statuses = store.statuses(planned.specs if planned else specs)
    name = planned.study.name if planned else "all"
    records = leaderboard.collect(store, specs, statuses)
    if planned:
        records = leaderboard.with_references(records, planned.references, store)
    if not records and not as_json:
        click.echo(f"No runs under {store.runs}. To make some: bnnbench run quick")
        return
    chosen = [text.strip() for text in columns.split(",")] if columns else None
    board = leaderboard.build(records, columns=chosen, sort=sort, title=name)
    if as_json:
        from benchmark.cli.options import echo_json

        echo_json(leaderboard.as_json(board))
    elif form == "terminal":
        leaderboard.print_terminal(board, per_seed=per_seed)
    elif form == "markdown":
        click.echo(leaderboard.as_markdown(board, per_seed=per_seed))
    else:
        click.echo(leaderboard.as_csv(board), nl=False)
    files = leaderboard.write_all(board, out or store.root / "leaderboard" / name)
    if form == "terminal" and not as_json:
        click.echo("Files:")
        for path in files:
            click.echo(f"  {path}")
