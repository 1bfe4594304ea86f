"""`bnnbench list`: what is installed, and where it comes from (no plugin is imported); or one plugin's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmark.cli.options import echo_json, json_option, plugin_option
from benchmark.errors import ConfigError, unknown

KINDS = ("methods", "tasks", "networks", "launchers", "studies")


@click.command("list")
@click.argument("what", required=False, metavar="[KIND | NAME]")
@click.option("--origin", is_flag=True, help="show the package and object behind every name")
@plugin_option
@json_option
def command(what: str | None, origin: bool, plugins: tuple[Path, ...], as_json: bool) -> None:
    """Show the methods, tasks, networks, launchers and studies that are installed, or the settings and presets of one
    method or task.

    \b
    Examples:
      bnnbench list
      bnnbench list methods --origin
      bnnbench list mean_field
      bnnbench list --json
    """
    if what is not None and what not in KINDS:
        _describe(what, as_json)
        return
    listing = {name: entries for name, entries in _listing().items() if what in (None, name)}
    if as_json:
        echo_json(listing)
        return
    for name, entries in listing.items():
        click.secho(name, bold=True)
        for entry in entries:
            if origin:
                click.echo(f"  {entry['name']:<20} {entry['origin']}")
            else:
                click.echo(f"  {entry['name']}{'   (registered twice)' if entry['collision'] else ''}")


def _describe(name: str, as_json: bool) -> None:
    from benchmark.cli.describe import described, print_described
    from benchmark.registry import METHODS, TASKS

    for kind, registry in (("method", METHODS), ("task", TASKS)):
        if name in registry.names():
            description = described(registry.get(name))
            if as_json:
                echo_json({"name": name, "kind": kind, **description})
            else:
                print_described(name, kind, description)
            return
    raise ConfigError(unknown("kind", name, KINDS, near=[*METHODS.names(), *TASKS.names()]) + ", or a method or a task")


def _listing() -> dict[str, list[dict[str, Any]]]:
    from importlib.metadata import entry_points

    from benchmark.registry import METHODS, NETWORKS, TASKS
    from benchmark.studies import FOLDER

    listing: dict[str, list[dict[str, Any]]] = {}
    for name, registry in (("methods", METHODS), ("tasks", TASKS), ("networks", NETWORKS)):
        listing[name] = [
            {
                "name": plugin,
                "origin": " and ".join(str(origin) for origin in origins),
                "collision": len(origins) > 1,
            }
            for plugin, origins in registry.origins().items()
        ]
    listing["launchers"] = [
        {"name": point.name, "origin": point.value, "collision": False}
        for point in sorted(entry_points(group="bnnbench.launchers"), key=lambda point: point.name)
    ]
    listing["studies"] = [
        {"name": path.stem, "origin": str(path), "collision": False} for path in sorted(FOLDER.glob("*.yaml"))
    ]
    return listing
