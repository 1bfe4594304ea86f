"""`bnnbench run`: run what is missing of a study, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import (
    data_root_given,
    echo_json,
    elsewhere,
    json_option,
    plugin_option,
    results_option,
    store_at,
    study_from,
    study_options,
    typed,
)

if TYPE_CHECKING:
    from benchmark.identity import RunSpec
    from benchmark.store import Store


FLAGS_ONLY = {"plugins": "--plugin FILE", "data_root": "--data-root DIR or BNNBENCH_DATA"}
"""Operational settings that hold for planning as well, and so cannot be a launcher's."""


def launcher_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--launcher and the settings that are changed most often."""
    for option in (
        click.option("--micro-batch", type=int, help="examples per forward pass while training, at most"),
        click.option(
            "--loaders",
            type=int,
            envvar="BNNBENCH_LOADERS",
            help="processes of one run that read data files (default: by cores)",
        ),
        click.option("--device", help="auto, cpu, cuda or cuda:N"),
        click.option("--devices", type=int, help="GPUs that train one run together (default 1)"),
        click.option("--threads", type=int, help="CPU threads of one run (default 1)"),
        click.option("--workers", type=int, help="runs at a time (default: one per GPU, else one per core)"),
        click.option("--launcher", help="local, inline, or 'local: {memory_limit_gib: 4}' as in a study"),
    ):
        function = option(function)
    return function


@click.command("run")
@study_options
@launcher_options
@click.option(
    "--rerun",
    type=click.Choice(["stale", "failed", "all"]),
    multiple=True,
    help="run these again as well; their old results are kept in the run's folder",
)
@plugin_option
@results_option
@json_option
def command(
    results: Path,
    as_json: bool,
    rerun: tuple[str, ...],
    plugins: tuple[Path, ...],
    launcher: str | None,
    workers: int | None,
    threads: int | None,
    loaders: int | None,
    device: str | None,
    devices: int | None,
    micro_batch: int | None,
    **flags: Any,
) -> int:
    """Run what is missing of a study. Finished runs are kept, interrupted ones go on where they were.

    \b
    Examples:
      bnnbench run quick
      bnnbench run study.yaml --workers 4 --threads 2
      bnnbench run --task digits --network resnet20 --method mean_field --seeds 3
      bnnbench run quick --rerun stale
    """
    from benchmark.datasets import data_root
    from benchmark.plan import plan
    from benchmark.recorded_plan import record
    from benchmark.store import to_run

    study = study_from(**flags)
    settings = {"workers": workers, "threads": threads, "loaders": loaders, "device": device}
    settings |= {"devices": devices, "micro_batch": micro_batch}
    chosen = choose_launcher(launcher, study.launcher, settings, plugins, str(data_root()))
    planned = plan(study)
    store = store_at(results)
    store.prepare()
    record(planned, store.root)
    statuses = store.statuses(planned.specs)
    again = [run_id for run_id, status in statuses.items() if _wanted_again(status.name, rerun)]
    wanted = {spec.id for spec in to_run(planned, statuses)} | with_released(planned.specs, statuses, again)
    specs = [spec for run_id, spec in planned.specs.items() if run_id in wanted]
    for run_id in again:
        store.folder(run_id).archive()
    failed = execute(specs, store, chosen, quiet=as_json)
    after = store.statuses(planned.specs)
    if as_json:
        return report_json(study.name, after, len(specs), failed)
    return report(f"study {study.name}", after, typed(flags, results, plugins), results, plugins)


def _wanted_again(status: str, rerun: Sequence[str]) -> bool:
    from benchmark.runfolder import FAILURES

    return (
        ("all" in rerun and status not in ("running", "new"))
        or ("stale" in rerun and status == "stale")
        or ("failed" in rerun and status in FAILURES)
    )


def with_released(specs: Mapping[str, RunSpec], statuses: Mapping[str, Any], again: Iterable[str]) -> set[str]:
    """The runs `again`, and those that were skipped for want of one of them."""
    released = set(again)
    for run_id, spec in specs.items():
        if statuses[run_id].name == "skipped" and any(need in released for need in spec.needs):
            released.add(run_id)
    return released


def choose_launcher(
    flag: str | None,
    from_study: Any,
    settings: dict[str, Any],
    plugins: Sequence[Path],
    data_root: str | None = None,
) -> tuple[Any, Any]:
    """The launcher and its validated settings; flags win over the study file.

    data_root: where the runs read their data; None for where each of them read it before.
    """
    from pydantic import ValidationError

    from benchmark.errors import ConfigError, unknown
    from benchmark.launch.launcher import LAUNCHERS
    from benchmark.yamlfile import parse

    entry = parse(flag, "--launcher").value if flag else (dict(from_study) or "local")
    if isinstance(entry, dict) and len(entry) == 1:
        name, given = next(iter(entry.items()))
    elif isinstance(entry, str):
        name, given = entry, None
    else:
        raise ConfigError(f"--launcher: expected a name or one 'name: {{setting: value}}', got {flag!r}.")
    launcher = LAUNCHERS.get(str(name))
    merged = {**(given or {}), **{key: value for key, value in settings.items() if value is not None}}
    legal = [field for field in launcher.Config.model_fields if field not in FLAGS_ONLY]
    for key in merged:
        if key in FLAGS_ONLY:
            raise ConfigError(f"launcher '{name}': '{key}' is no setting of a launcher; give {FLAGS_ONLY[key]}.")
        if key not in legal:
            raise ConfigError(unknown("setting", key, legal, f"launcher '{name}'"))
    files = tuple(str(path) for path in plugins)
    try:
        return launcher, launcher.Config(**merged, plugins=files, data_root=data_root)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"launcher '{name}': {key} = {problem['input']!r}: {problem['msg']}.") from error


def execute(specs: Sequence[RunSpec], store: Store, chosen: tuple[Any, Any], *, quiet: bool) -> list[tuple[str, str]]:
    """Create the run folders and launch; the runs that did not end well, with their status."""
    if not specs:
        return []
    from benchmark.cli.watch import Watch

    for spec in specs:
        _create(store, spec)
    launcher, config = chosen
    with Watch(store, len(specs), quiet=quiet) as watch:
        launcher.launch(specs, store, config, watch)
    return watch.failed


def _create(store: Store, spec: RunSpec) -> None:
    from benchmark.errors import EnvironmentProblem

    folder = store.folder(spec.id)
    try:
        folder.create(spec)
    except OSError as error:
        raise EnvironmentProblem(f"{folder.path} cannot be written ({error.strerror}).") from error


def report_json(name: str, statuses: Mapping[str, Any], ran: int, failed: Sequence[tuple[str, str]]) -> int:
    """The outcome of a launch for programs; returns the exit code."""
    from benchmark.store import count

    echo_json({"study": name, "ran": ran, "counts": count(statuses.values()), "failed": dict(failed)})
    return 1 if unfinished(statuses) else 0


def report(what: str, statuses: Mapping[str, Any], study: str, results: Path, plugins: tuple[Path, ...]) -> int:
    """Say how things stand and what to type next; returns the exit code.

    study: the words that name the study on the command line.
    """
    from benchmark.store import count

    counts = count(statuses.values())
    bad = unfinished(statuses)
    click.echo(f"\n{what}: {', '.join(f'{number} {status}' for status, number in counts.items())}.")
    for run_id, status in list(bad.items())[:5]:
        click.echo(f"  {status.name:<8} {run_id}  {status.note}")
        if status.name != "skipped":
            see = f"bnnbench logs {run_id} {elsewhere(results, ())}".rstrip()
            then = " ".join(f"bnnbench retry {run_id} {elsewhere(results, plugins)} {data_root_given()}".split())
            click.echo(f"           See: {see}      then: {then}")
    if counts.get("stale"):
        click.echo(f"  {counts['stale']} results are of other code or another base; --rerun stale makes them anew")
    click.echo(f"  The tables: bnnbench leaderboard {study}".rstrip())
    return 1 if bad else 0


def unfinished(statuses: Mapping[str, Any]) -> dict[str, Any]:
    """The runs that have no result, and none under way."""
    return {run_id: status for run_id, status in statuses.items() if status.name not in ("done", "stale", "running")}
