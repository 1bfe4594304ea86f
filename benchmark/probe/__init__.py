"""A short measurement of a run that was never made: its real `fit` for some seconds, in a process of its own.

This side starts the process, bounds it and reads what it leaves; `benchmark.probe.child` is what happens in there.
Nothing is written but to a temporary folder, which is removed.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmark.errors import CorruptFile
from benchmark.estimate import Estimates, Timing, device_label
from benchmark.files import read_json
from benchmark.identity import RunSpec
from benchmark.operation import Operation
from benchmark.store import Store

LOADING_SECONDS = 300.0
"""How long imports, data and networks may take before the clock of a probe starts."""
RECORD, STAGE = "measured.json", "stage"


@dataclass(frozen=True)
class Probe:
    """What is probed, and how. specs: the plan, in which the runs that `spec` needs are found. runs: the folder of
    finished runs, from which those among them are read. seconds: the time that `fit` has, and each stand-in as well."""

    spec: RunSpec
    specs: Mapping[str, RunSpec]
    runs: Path
    operation: Operation
    seconds: float

    @property
    def limit(self) -> float:
        """Seconds after which the process is stuck and is ended: loading, every stand-in, `fit`, prediction."""
        return LOADING_SECONDS + 2 * self.seconds * (3 + len(self._ancestors(self.spec)))

    def _ancestors(self, spec: RunSpec) -> set[str]:
        known = {need: self.specs[need] for need in spec.needs if need in self.specs}
        return set(spec.needs).union(*(self._ancestors(other) for other in known.values()))


def probe(
    specs: Mapping[str, RunSpec], estimates: Estimates, store: Store, operation: Operation, seconds: float
) -> None:
    """Time one run of every kind that has no timing; adds to `timings` or `refused` of `estimates`. Says on standard
    error what it is at.

    specs: the plan. operation: device and threads of its runs.
    """
    from benchmark.launch.local import heavy_modules

    representatives: dict[str, RunSpec] = {}
    for run_id in estimates.unknown:
        representatives.setdefault(estimates.pending[run_id], specs[run_id])
    for module in ("benchmark.child", *heavy_modules(list(representatives.values()))):
        with contextlib.suppress(Exception):  # once for all the processes that are forked; a probe meets it again
            importlib.import_module(module)
    with _ended_by_signal():
        _probe_each(representatives, specs, estimates, store, operation, seconds)


def _probe_each(
    representatives: Mapping[str, RunSpec],
    specs: Mapping[str, RunSpec],
    estimates: Estimates,
    store: Store,
    operation: Operation,
    seconds: float,
) -> None:
    for number, (kind, spec) in enumerate(representatives.items(), start=1):
        place = f"{spec.label} for {spec.network.name} on {spec.task.name}"
        print(f"probe {number} of {len(representatives)}, {seconds:g} s: {place}", file=sys.stderr)
        found = probe_one(Probe(spec, specs, store.runs.absolute(), operation, seconds))
        if isinstance(found, Timing):
            estimates.timings[kind] = [found]
        else:
            estimates.refused[kind] = found


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """SIGTERM as an exception, so that the probe's process and its folder are gone afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def probe_one(wanted: Probe) -> Timing | str:
    """Measure one run. Returns its timing, or why there is none. No process outlives the call."""
    from benchmark.probe.child import measure

    with tempfile.TemporaryDirectory(prefix="bnnbench-probe-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        sys.stdout.flush()
        sys.stderr.flush()
        process = multiprocessing.get_context("fork").Process(target=measure, args=(wanted, folder, os.getpid()))
        process.start()
        try:
            process.join(wanted.limit)
            late = process.is_alive()
        finally:
            _end(process)
        if late:
            return f"{_stage(folder)} had not ended after {wanted.limit:.0f} s"
        try:
            record = read_json(folder / RECORD)
        except (FileNotFoundError, CorruptFile):
            return f"its process ended {_manner(process.exitcode)} in the middle of: {_stage(folder)}"
    return _timing(record, wanted)


def _timing(record: Mapping[str, Any], wanted: Probe) -> Timing | str:
    if "refused" in record:
        return str(record["refused"])
    label = device_label(record["device"], cpu=record["cpu"], threads=wanted.operation.threads)
    return Timing(label, record["fit"], record["predict"], probed=wanted.seconds, complete=record["complete"])


def _end(process: BaseProcess) -> None:
    """Kill what is left of the process and of its session: workers that read data, helpers of a method."""
    if process.pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()  # it may not have come as far as a session of its own
    process.join()


def _stage(folder: Path) -> str:
    try:
        return (folder / STAGE).read_text(encoding="utf-8")
    except OSError:
        return "starting"


def _manner(code: int | None) -> str:
    return f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit status {code}"
