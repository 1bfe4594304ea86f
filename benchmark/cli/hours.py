"""How `bnnbench plan` shows what is left to do in hours of a device, and where the numbers are from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from benchmark.estimate import DeviceTotal, Estimates, Timing
from benchmark.identity import RunSpec

SHOWN = 5
"""Reasons for missing probes that are listed."""


def print_hours(estimates: Estimates, specs: Mapping[str, RunSpec], again: str, *, by_row: bool) -> None:
    """Print one line per kind of device, then what has no timing and why.

    specs: the plan. again: the command that makes this plan. by_row: what a run of each row takes, too.
    """
    pending = len(estimates.pending)
    if not pending:
        return
    totals = estimates.devices()
    for total in totals:
        click.echo(f"{_total(total)} for {len(total.covered)} of {pending} runs to do")
    if len(totals) > 1:
        click.echo("(The devices are alternatives: a run that was timed on several counts on each.)")
    if by_row:
        for line in _rows(estimates, specs):
            click.echo(f"  {line}")
    _print_unknown(estimates, specs, again)


def _total(total: DeviceTotal) -> str:
    bases = []
    if total.finished:
        bases.append(f"mean of {total.finished} finished runs" if total.finished > 1 else "one finished run")
    if total.probed:
        share = f" for {len(total.probed)} of them" if total.finished else ""
        bases.append(f"probe of {total.probed[0].probed:.3g} s{share}")
    about = "~" if total.probed else "about "
    fit_only = sum(timing.predict is None for timing in total.covered.values())
    without = f", {fit_only} without their predictions" if fit_only else ""
    return f"{about}{_amount(total.seconds)} on {total.device} ({'; '.join(bases)}{without})"


def _amount(seconds: float) -> str:
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 0.1 * size and seconds >= 60:
            return f"{_digits(seconds / size)} device-{unit}"
    return f"{_digits(seconds)} device-seconds"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _rows(estimates: Estimates, specs: Mapping[str, RunSpec]) -> Sequence[str]:
    """`digits resnet20 mean_field: 3 runs, 12 s each on ... (mean of 2 finished runs)`."""
    lines: Counter[str] = Counter()
    for run_id in estimates.pending:
        spec = specs[run_id]
        row = f"{spec.task.name} {spec.network.label()} {spec.label}"
        each = "; ".join(_each(timing) for timing in estimates.of(run_id)) or "no timing"
        lines[f"{row}: {each}"] += 1
    return [f"{number} x {line}" for line, number in lines.items()]


def _each(timing: Timing) -> str:
    about = "~" if timing.probed is not None else ""
    return f"{about}{_amount(timing.seconds)} on {timing.device} ({timing.source})"


def _print_unknown(estimates: Estimates, specs: Mapping[str, RunSpec], again: str) -> None:
    refused = Counter(estimates.pending[run_id] for run_id in estimates.unknown)
    example = {estimates.pending[run_id]: specs[run_id] for run_id in reversed(estimates.unknown)}
    left = sum(number for kind, number in refused.items() if kind not in estimates.refused)
    shown = [(kind, number) for kind, number in refused.items() if kind in estimates.refused]
    for kind, number in shown[:SHOWN]:
        spec = example[kind]
        where = f"{spec.label} for {spec.network.name} on {spec.task.name}"
        click.echo(f"{number} not probed ({where}): {estimates.refused[kind]}")
    if len(shown) > SHOWN:
        click.echo(f"{sum(number for _, number in shown[SHOWN:])} more not probed: see --json")
    if left:
        click.echo(f"{left} {'has' if left == 1 else 'have'} no timing yet: {again} --probe 30")


def hours_as_json(estimates: Estimates) -> dict[str, Any]:
    """The totals: per device, and how many runs have no timing."""
    devices = [
        {
            "device": total.device,
            "device_hours": total.seconds / 3600,
            "runs": len(total.covered),
            "finished_runs": total.finished,
            "probed": len(total.probed),
        }
        for total in estimates.devices()
    ]
    return {"devices": devices, "unknown": len(estimates.unknown)}


def run_as_json(estimates: Estimates, run_id: str) -> dict[str, Any]:
    """The keys of one run: `estimates`, one per device; empty when nothing is known, or nothing is to do. A run that
    could not be probed has `not_probed`, the reason."""
    known = [
        {
            "seconds": timing.seconds,
            "fit_seconds": timing.fit,
            "predict_seconds": timing.predict,
            "device": timing.device,
            "source": timing.source,
            "extrapolated": timing.probed is not None and not timing.complete,
        }
        for timing in estimates.of(run_id)
    ]
    reason = estimates.refused.get(estimates.pending.get(run_id, ""))
    return {"estimates": known} | ({} if reason is None else {"not_probed": reason})
