"""`bnnbench logs`: what a run printed in its attempts, and how each ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmark.cli.options import echo_json, json_option, results_option, store_at


@click.command("logs")
@click.argument("run", nargs=-1, required=True)
@click.option("-n", "--lines", type=click.IntRange(min=0), default=40, show_default=True, help="of each log")
@results_option
@json_option
def command(run: tuple[str, ...], lines: int, results: Path, as_json: bool) -> None:
    """Show every attempt of the runs that RUN names: an id, a part of one, or a pattern.

    \b
    Examples:
      bnnbench logs digits.resnet20.map.s0
      bnnbench logs 'digits.*.mean_field.s0-*' --lines 100
    """
    found = [_attempts(folder, lines) for folder in store_at(results).find(run)]
    if as_json:
        echo_json(found)
        return
    for entry in found:
        click.secho(entry["id"], bold=True)
        if not entry["attempts"]:
            click.echo("  never started")
        for attempt in entry["attempts"]:
            outcome = attempt["outcome"]
            click.echo(f"  attempt {attempt['attempt']}: {outcome.get('status', 'no outcome recorded')}"
                       f"{_where(outcome)}   {attempt['log']}")  # fmt: skip
            for line in attempt["lines"]:
                click.echo(f"    {line}")


def _attempts(folder: Any, lines: int) -> dict[str, Any]:
    from benchmark.errors import CorruptFile
    from benchmark.files import read_json

    attempts = []
    for path in folder.attempts():
        try:
            outcome = read_json(path / "outcome.json")
        except (FileNotFoundError, CorruptFile) as error:
            outcome = {} if isinstance(error, FileNotFoundError) else {"message": str(error)}
        log = path / "log.txt"
        text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        tail = text[-lines:] if lines else []
        attempts.append({"attempt": path.name, "log": str(log), "outcome": outcome, "lines": tail})
    return {"id": folder.id, "path": str(folder.path), "attempts": attempts}


def _where(outcome: dict[str, Any]) -> str:
    if outcome.get("status") in (None, "ok"):
        return ""
    return f" in phase '{outcome.get('phase')}': {outcome.get('type')}: {outcome.get('message')}"
