"""What the runs that are still to do will take: from finished runs that differ from them in the seed alone.

Nothing is guessed. A run without such a twin has no timing, until `benchmark.probe` measures one.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from benchmark.errors import CorruptFile
from benchmark.files import canonical_json
from benchmark.identity import RunSpec
from benchmark.store import Status, Store

_SEED_AND_HASH = re.compile(r"\.s\d+-[0-9a-f]+$")


@dataclass(frozen=True)
class Timing:
    """Device-seconds of one run on one kind of device: seconds, times the devices that train it.

    fit: inside `fit`. predict: of all predictions, of test and validation data, of out-of-distribution, attacked and
    corrupted examples (a probe does not attack); None when only `fit` is known. runs: how many finished runs it is the
    mean of; 0 for a probe. probed: seconds that a probe ran, None for finished runs. complete: whether the probe's
    `fit` came to its end in that time.
    """

    device: str
    fit: float
    predict: float | None
    runs: int = 0
    probed: float | None = None
    complete: bool = True

    @property
    def seconds(self) -> float:
        """All that is known of, together."""
        return self.fit + (self.predict or 0.0)

    @property
    def source(self) -> str:
        """Where it is from, for people."""
        if self.probed is None:
            return f"mean of {self.runs} finished runs" if self.runs > 1 else "one finished run"
        return f"probe of {self.probed:.3g} s, " + ("fit complete" if self.complete else "extrapolated")


@dataclass
class Estimates:
    """Timings of the runs of a plan that are to do, by kind of run (see `Kinds`).

    pending: run id -> its kind. refused: kind -> why a probe could not time it.
    """

    pending: dict[str, str]
    timings: dict[str, list[Timing]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def of(self, run_id: str) -> Sequence[Timing]:
        """The timings of a run, one per kind of device; none when it is unknown, or nothing is to do."""
        return self.timings.get(self.pending.get(run_id, ""), ())

    @property
    def unknown(self) -> list[str]:
        """Runs to do without a timing, in plan order."""
        return [run_id for run_id in self.pending if not self.of(run_id)]

    def devices(self) -> list[DeviceTotal]:
        """One total per kind of device, the one that covers most runs first. A run that was timed on two kinds counts
        on both: they are alternatives."""
        names = dict.fromkeys(timing.device for found in self.timings.values() for timing in found)
        totals = [self._total(name) for name in names]
        return sorted((total for total in totals if total.covered), key=lambda total: -len(total.covered))

    def _total(self, device: str) -> DeviceTotal:
        covered = {run_id: timing for run_id in self.pending for timing in self.of(run_id) if timing.device == device}
        kinds = {self.pending[run_id]: timing for run_id, timing in covered.items()}
        finished = sum(timing.runs for timing in kinds.values())
        return DeviceTotal(device, covered, finished)


@dataclass(frozen=True)
class DeviceTotal:
    """What the runs that were timed on one kind of device take together. finished: the runs that were averaged."""

    device: str
    covered: Mapping[str, Timing]
    finished: int

    @property
    def seconds(self) -> float:
        """Of all covered runs, one after another."""
        return sum(timing.seconds for timing in self.covered.values())

    @property
    def probed(self) -> list[Timing]:
        """One per covered run whose timing is a probe's."""
        return [timing for timing in self.covered.values() if timing.probed is not None]


def estimates_of(
    pending: Iterable[RunSpec], specs: Mapping[str, RunSpec], statuses: Mapping[str, Status], store: Store
) -> Estimates:
    """Timings of the runs `pending` from finished runs: those of the plan (`specs`), whose results `statuses` holds
    already; only for kinds that have none there, other runs of the store whose ids begin alike are read."""
    kinds = Kinds(specs, store)
    estimates = Estimates({spec.id: kinds.of(spec.identity()) for spec in pending})
    if not estimates.pending:
        return estimates
    wanted, found = set(estimates.pending.values()), _Found(kinds)
    for run_id, status in statuses.items():
        if status.state.name == "ok":
            found.add(run_id, status.state.detail, wanted)
    missing = wanted - set(found.samples)
    slugs = {slug_of(run_id) for run_id, kind in estimates.pending.items() if kind in missing}
    for run_id in store.ids() if missing else ():
        if run_id not in specs and slug_of(run_id) in slugs:
            with contextlib.suppress(CorruptFile, OSError):
                found.add(run_id, store.folder(run_id).result() or {}, missing)
    estimates.timings = found.timings()
    return estimates


class Kinds:
    """What runs have in common that do the same work: everything in their identity but the seed, and the same of the
    runs that they need (what those trained changes nothing; their settings may say how much there is to do).

    specs: a plan, where needed runs are looked up; those of other runs are read from the store.
    """

    def __init__(self, specs: Mapping[str, RunSpec], store: Store) -> None:
        self._specs, self._store = specs, store
        self._needs: dict[str, str] = {}

    def of(self, identity: Mapping[str, Any]) -> str:
        """A digest that runs of one kind share."""
        own = {key: value for key, value in identity.items() if key not in ("seed", "needs", "given", "title", "id")}
        text = canonical_json({**own, "needs": [self._of_need(need) for need in identity["needs"]]})
        return hashlib.sha256(text.encode()).hexdigest()

    def _of_need(self, run_id: str) -> str:
        if run_id not in self._needs:
            self._needs[run_id] = slug_of(run_id)  # all that is known of a run whose folder is gone
            with contextlib.suppress(CorruptFile, OSError):
                spec = self._specs.get(run_id) or self._store.folder(run_id).spec()
                self._needs[run_id] = self.of(spec.identity())
        return self._needs[run_id]


def slug_of(run_id: str) -> str:
    """Task, network and method of a run's id, as it spells them."""
    return _SEED_AND_HASH.sub("", run_id)


def device_label(name: str, *, cpu: bool, threads: int) -> str:
    """A kind of device: the model of the GPU, or that of the CPU with the threads that a run may use."""
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}" if cpu else name


class _Found:
    """Timings of finished runs, collected by kind and device."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self.samples: dict[str, dict[str, list[tuple[float, float]]]] = {}

    def add(self, run_id: str, result: Mapping[str, Any], wanted: set[str]) -> None:
        """Take the timing of a result when its kind is wanted; one that lacks what is needed is passed over."""
        try:
            kind = self._kinds.of(result["spec"])
            if kind not in wanted:
                return
            fit = 3600 * float(result["metrics"]["device_hours"]["value"])
            seconds = result["seconds"]
            predict = sum(float(seconds.get(part, 0.0)) for part in ("predict", "detection", "shift"))
            device = self._device(result)
        except (KeyError, TypeError, ValueError):
            return
        self.samples.setdefault(kind, {}).setdefault(device, []).append((fit, predict))

    def _device(self, result: Mapping[str, Any]) -> str:
        """The kind of device that the run was made on.

        Raises:
            KeyError: the result does not say; it was made before results did.
        """
        environment, name = result["environment"], str(result["device"] or result["latency"]["device"])
        cpu, threads = str(environment["processor"]), int(environment["operation"]["threads"])
        label = device_label(name, cpu=name == cpu, threads=threads)
        several = int(environment["operation"].get("devices", 1))
        return label if several == 1 else f"{several} x {label}"

    def timings(self) -> dict[str, list[Timing]]:
        """Kind -> the mean per device."""
        return {
            kind: [
                Timing(device, mean(fit for fit, _ in pairs), mean(predict for _, predict in pairs), len(pairs))
                for device, pairs in by_device.items()
            ]
            for kind, by_device in self.samples.items()
        }
