"""`bnnbench plan`: what a study is made of, and what of it is left to do. Writes nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from benchmark.operation import Operation


@click.command("plan")
@study_options
@click.option("--runs", "list_runs", is_flag=True, help="list every run, not only the matrix")
@click.option(
    "--probe",
    "probe_seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="run the fit of every row without a timing for so long, on this machine",
)
@plugin_option
@results_option
@json_option
def command(
    results: Path,
    as_json: bool,
    list_runs: bool,
    probe_seconds: float | None,
    plugins: tuple[Path, ...],
    **flags: Any,
) -> None:
    """Print the matrix of a study with the status of every run. Nothing is written, and no run is started.

    What is left to do is told in hours of a device: the mean of finished runs in the results folder that differ in the
    seed alone, per kind of device. A run without such a twin has no timing; --probe measures one run of each kind in a
    process that leaves nothing behind, with the launcher settings of the study, and extrapolates (~). Needed runs that
    are not there are stood in for by short ones. Counted are fit and all predictions, of which a probe measures a few
    batches; a finished run's attacks, too. Not counted: starting up, loading data, encoding, latency.

    \b
    Examples:
      bnnbench plan quick
      bnnbench plan quick --probe 30
      bnnbench plan study.yaml --seeds 3 --runs
      bnnbench plan --task digits --network resnet20 --method map --method mean_field
    """
    from benchmark.cli.hours import hours_as_json, print_hours, run_as_json
    from benchmark.cli.run_ import choose_launcher
    from benchmark.estimate import estimates_of
    from benchmark.plan import plan
    from benchmark.resource_classes import resources_of
    from benchmark.store import count, to_run

    study = study_from(**flags)
    # The launcher's settings are the study's too, and must be right.
    _, settings = choose_launcher(None, study.launcher, {}, plugins)
    planned = plan(study)
    store = store_at(results)
    statuses = store.statuses(planned.specs)
    counts = count(statuses.values()) | ({"excluded": len(planned.excluded)} if planned.excluded else {})
    pending = to_run(planned, statuses)
    specs = planned.specs
    asked = resources_of(study, specs.values())
    estimates = estimates_of(pending, specs, statuses, store)
    if probe_seconds is not None and estimates.unknown:
        from benchmark.probe import probe

        probe(specs, estimates, store, _operation(settings), probe_seconds)
    if as_json:
        runs = [
            {"id": cell.spec.id, "status": statuses[cell.spec.id].name, "note": statuses[cell.spec.id].note,
             "row": cell.row, "spec": cell.spec.to_json(),
             "resources": asked[cell.spec.id].model_dump(exclude_none=True), **run_as_json(estimates, cell.spec.id)}
            for cell in planned.cells
        ]  # fmt: skip
        excluded = [{"id": spec.id, "status": "excluded", "spec": spec.to_json()} for spec in planned.excluded]
        summary = {"study": planned.study.name, "counts": counts, "to_run": len(pending)}
        echo_json({**summary, "estimate": hours_as_json(estimates), "runs": runs + excluded})
        return
    from benchmark.cli.matrix import print_matrix, print_runs

    print_matrix(planned, statuses)
    if list_runs:
        print_runs(planned, statuses)
    counted = ", ".join(f"{number} {name}" for name, number in counts.items())
    extra = len(planned.cells) - len(planned.rows)
    needed = f" ({extra} of them only because others need them)" if extra else ""
    click.echo(f"\n{len(planned.cells)} runs{needed}: {counted}.")
    same = typed(flags, results, plugins)
    click.echo(f"{len(pending)} to run: bnnbench run {same}" if pending else "Nothing to run.")
    classes = Counter(str(asked[spec.id]) for spec in pending)
    for text, number in classes.items():
        if text:
            click.echo(f"{number} ask for {text} each.")
    print_hours(estimates, specs, f"bnnbench plan {same}", by_row=list_runs)


def _operation(settings: Any) -> Operation:
    """How the study's launcher executes a run, as far as its settings say so."""
    from benchmark.launch.local import cores, fair_loaders
    from benchmark.operation import Operation

    given = {name: getattr(settings, name) for name in Operation.model_fields if hasattr(settings, name)}
    operation = Operation(**{**given, "devices": 1})  # a probe trains on one device
    if operation.loaders is not None:
        return operation
    workers = getattr(settings, "workers", None) or 1
    return operation.model_copy(update={"loaders": fair_loaders(cores(), workers, operation.threads)})
