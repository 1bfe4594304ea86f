"""`bnnbench retry`: run failed runs again, and those that waited for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import (
    data_root_option,
    elsewhere,
    json_option,
    plugin_option,
    results_option,
    store_at,
)
from benchmark.cli.run_ import choose_launcher, execute, launcher_options, report, report_json, with_released

if TYPE_CHECKING:
    from benchmark.identity import RunSpec
    from benchmark.operation import Operation
    from benchmark.store import Store


@click.command("retry")
@click.argument("run", nargs=-1)
@click.option("--failed", "all_failed", is_flag=True, help="every failed run under the results folder")
@click.option("--afresh", is_flag=True, help="from the beginning, not from the last checkpoint")
@launcher_options
@data_root_option
@plugin_option
@results_option
@json_option
def command(
    run: tuple[str, ...],
    all_failed: bool,
    afresh: bool,
    results: Path,
    as_json: bool,
    plugins: tuple[Path, ...],
    launcher: str | None,
    **settings: Any,
) -> int:
    """Run again what failed: the runs that RUN names (an id, a part of one, a pattern), or all with --failed.

    Finished runs are run again only when they are named and --afresh is given. A run reads its data where it read them
    before, unless --data-root or BNNBENCH_DATA names another folder.

    \b
    Examples:
      bnnbench retry digits.resnet20.map.s0
      bnnbench retry --failed
      bnnbench retry resnet18.mean_field --micro-batch 64
    """
    from benchmark.datasets import DATA_ROOT
    from benchmark.errors import ConfigError
    from benchmark.runfolder import FAILURES
    from benchmark.store import in_order_of_needs

    store = store_at(results)
    store.prepare()
    if bool(run) == all_failed:
        raise ConfigError("name the runs to retry, or give --failed (and not both).")
    chosen = choose_launcher(launcher, {}, settings, plugins, os.environ.get(DATA_ROOT) or None)
    specs = in_order_of_needs(store.specs())
    statuses = store.statuses(specs)
    failed = {run_id for run_id, status in statuses.items() if status.name in (*FAILURES, "corrupt")}
    named = {folder.id for folder in store.find(run)} if run else failed
    takes_up = (*FAILURES, "corrupt", "new", *(("done", "stale") if afresh and run else ()))
    taken_up = [run_id for run_id in named if run_id in specs and statuses[run_id].name in takes_up]
    wanted = with_released(specs, statuses, taken_up)
    todo = [spec for run_id, spec in specs.items() if run_id in wanted]
    _require_data(todo, store, chosen[1])
    if afresh:
        for run_id in wanted:
            store.folder(run_id).archive()
    if not todo and not as_json:
        click.echo("Nothing to retry: none of these runs has failed.")
        return 0
    ended_badly = execute(todo, store, chosen, quiet=as_json)
    after = {run_id: status for run_id, status in store.statuses(specs).items() if run_id in wanted}
    if as_json:
        return report_json("retry", after, len(todo), ended_badly)
    return report("retried", after, elsewhere(results, plugins), results, plugins)


def _require_data(specs: Sequence[RunSpec], store: Store, operation: Operation) -> None:
    """Before anything is archived or started. Raises MissingData."""
    from benchmark.datasets import MissingData, check_data, reading_from
    from benchmark.errors import BenchError
    from benchmark.needed_data import data_of_runs

    by_root: dict[Path, list[RunSpec]] = {}
    for spec in specs:
        by_root.setdefault(operation.root_for(store.folder(spec.id)), []).append(spec)
    for root, own in by_root.items():
        with reading_from(root):
            try:
                check_data(data_of_runs(own))
            except MissingData:
                raise
            except BenchError:  # a plugin that cannot be loaded fails in its own runs
                continue
