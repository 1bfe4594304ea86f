"""`bnnbench rescore`: metrics anew from stored predictions; nothing is trained or predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmark.cli.options import echo_json, json_option, plugin_option, results_option, store_at


@click.command("rescore")
@click.argument("run", nargs=-1)
@click.option("--all", "all_runs", is_flag=True, help="every run with stored predictions")
@plugin_option
@results_option
@json_option
def command(run: tuple[str, ...], all_runs: bool, plugins: tuple[Path, ...], results: Path, as_json: bool) -> int:
    """Compute the metrics of finished runs anew, from their stored predictions.

    \b
    Examples:
      bnnbench rescore --all
      bnnbench rescore digits.resnet20
    """
    from benchmark.errors import BenchError, ConfigError

    store = store_at(results)
    if bool(run) == all_runs:
        raise ConfigError("name the runs to rescore, or give --all (and not both).")
    folders = store.find(run) if run else [store.folder(run_id) for run_id in store.ids()]
    outcomes: dict[str, str] = {}
    for folder in folders:
        if not folder.file("predictions.npz").is_file() or not folder.file("evaluation.json").is_file():
            outcomes[folder.id] = "skipped: no stored predictions"
            continue
        if folder.state().name == "running":
            outcomes[folder.id] = "skipped: running"
            continue
        try:
            outcomes[folder.id] = _rescored(folder)
        except (BenchError, OSError) as error:
            outcomes[folder.id] = f"failed: {error}"
    failed = [text for text in outcomes.values() if text.startswith("failed")]
    if as_json:
        echo_json(outcomes)
    else:
        for run_id, text in outcomes.items():
            click.echo(f"{text.partition(':')[0]:<9} {run_id} {text.partition(':')[2]}")
        click.echo(f"{len(outcomes)} runs.")
    return 1 if failed else 0


def _rescored(folder: Any) -> str:
    from benchmark.errors import CorruptFile
    from benchmark.publish import publish

    try:
        before = folder.result()
    except CorruptFile:
        before = None
    after = publish(folder, folder.spec(), earlier=before)
    if before is None:
        return "mended: result.json was absent or damaged"
    changed = [name for name, value in after["metrics"].items() if before["metrics"].get(name) != value]
    return f"rescored: {', '.join(changed)} changed" if changed else "unchanged"
