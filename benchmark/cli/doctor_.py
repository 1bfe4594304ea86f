"""`bnnbench doctor`: what this machine has, what it lacks, and how to mend it."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.cli.options import data_root_option, echo_json, json_option, plugin_option, results_option
from benchmark.errors import EnvironmentProblem

COLOURS = {"well": "green", "optional": "cyan", "doubtful": "yellow", "missing": "red"}


@click.command("doctor")
@data_root_option
@plugin_option
@results_option
@json_option
def command(results: Path, plugins: tuple[Path, ...], as_json: bool) -> int:
    """Look at Python, packages, GPUs, Slurm, folders, disk, memory and clock. Changes nothing.

    \b
    well: as it should be. optional: not there, and only some uses need it.
    doubtful: it works, with a risk. missing: needed, and absent or broken; the exit code is 3 then.

    \b
    Examples:
      bnnbench doctor
      bnnbench doctor --results /scratch/results --data-root /scratch/data
      bnnbench doctor --json
    """
    from benchmark.doctor.checks import CHECKS
    from benchmark.doctor.finding import examine

    found = []
    for finding in examine(CHECKS, results):
        found.append(finding)
        if not as_json:
            click.echo(
                f"{click.style(f'{finding.state:<8}', fg=COLOURS[finding.state])}  {finding.topic:<14} {finding.text}"
            )
            if finding.mend:
                click.echo(f"{'':<25}to mend: {finding.mend}")
    missing = [finding.topic for finding in found if finding.state == "missing"]
    if as_json:
        echo_json({"well": not missing, "findings": [finding.to_json() for finding in found]})
    elif missing:
        click.echo(f"\n{len(missing)} to mend: {', '.join(dict.fromkeys(missing))}.")
    else:
        doubtful = sum(finding.state == "doubtful" for finding in found)
        click.echo("\nAll that is needed is there." + (f" {doubtful} doubtful." if doubtful else ""))
    return EnvironmentProblem.exit_code if missing else 0
