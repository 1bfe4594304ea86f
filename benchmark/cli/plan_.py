"""`bnnbench plan`: what a study is made of, and what of it is left to do. Writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmark.cli.options import (
    echo_json,
    json_option,
    plugin_option,
    results_option,
    store_at,
    study_from,
    study_options,
    typed,
)


@click.command("plan")
@study_options
@click.option("--runs", "list_runs", is_flag=True, help="list every run, not only the matrix")
@plugin_option
@results_option
@json_option
def command(results: Path, as_json: bool, list_runs: bool, plugins: tuple[Path, ...], **flags: Any) -> None:
    """Print the matrix of a study with the status of every run. Nothing is written or started.

    \b
    Examples:
      bnnbench plan quick
      bnnbench plan study.yaml --seeds 3 --runs
      bnnbench plan --task digits --network resnet20 --method map --method mean_field
    """
    from benchmark.cli.run_ import choose_launcher
    from benchmark.plan import plan
    from benchmark.store import count, to_run

    study = study_from(**flags)
    choose_launcher(None, study.launcher, {}, plugins)  # its settings are the study's too, and must be right
    planned = plan(study)
    store = store_at(results)
    statuses = store.statuses(planned.specs)
    counts = count(statuses.values()) | ({"excluded": len(planned.excluded)} if planned.excluded else {})
    pending = to_run(planned, statuses)
    if as_json:
        runs = [
            {"id": cell.spec.id, "status": statuses[cell.spec.id].name, "note": statuses[cell.spec.id].note,
             "row": cell.row, "spec": cell.spec.to_json()}
            for cell in planned.cells
        ]  # fmt: skip
        excluded = [{"id": spec.id, "status": "excluded", "spec": spec.to_json()} for spec in planned.excluded]
        echo_json({"study": planned.study.name, "counts": counts, "to_run": len(pending), "runs": runs + excluded})
        return
    from benchmark.cli.matrix import print_matrix, print_runs

    print_matrix(planned, statuses)
    if list_runs:
        print_runs(planned, statuses)
    summary = ", ".join(f"{number} {name}" for name, number in counts.items())
    extra = len(planned.cells) - len(planned.rows)
    needed = f" ({extra} of them only because others need them)" if extra else ""
    click.echo(f"\n{len(planned.cells)} runs{needed}: {summary}.")
    command_line = f"bnnbench run {typed(flags, results, plugins)}"
    click.echo(f"{len(pending)} to run: {command_line}" if pending else "Nothing to run.")
