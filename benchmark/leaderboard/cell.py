"""One number of a table: a metric over the seeds of a row, with nothing averaged over silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmark.leaderboard.records import Record
from benchmark.metrics.record import State
from benchmark.statistics import Interval, interval

WITH_BASE = "train_seconds.with_base"
"""Own training seconds plus those of all runs that a run starts from."""


class SeedValue(NamedTuple):
    """A metric of one run, in one of the four states of a metric; a run without a result is `failed`.

    `reason` says why there is no number; for a run without a result it begins with the run's status. `at_bound`: a
    temperature behind the value lies at the end of its range.
    """

    seed: int
    state: State
    value: float | None = None
    se: float | None = None
    reason: str = ""
    at_bound: bool = False


@dataclass(frozen=True)
class Cell:
    """A metric over the seeds of a row.

    state: `na` when it has no meaning for any seed; `failed` when no seed has a result; `inf` when it is infinite for a
        seed; else `ok`, also when some seeds are missing (see `complete`).
    interval: over the seeds with a finite number; None in the other states.
    n, expected: seeds with a number (infinity counts), and seeds that should have one (`na` does not count).
    """

    metric: str
    values: tuple[SeedValue, ...]
    state: State
    interval: Interval | None
    n: int
    expected: int

    @property
    def complete(self) -> bool:
        """Whether every seed that should have a number has one; infinity is a number."""
        return self.state in ("ok", "inf") and self.n == self.expected

    @property
    def by_seed(self) -> dict[int, float]:
        """Seed -> finite value."""
        return {each.seed: each.value for each in self.values if each.value is not None}

    @property
    def at_bound(self) -> bool:
        """Whether a seed's temperature lies at the end of its range: no finite scale fits the validation data."""
        return any(each.at_bound for each in self.values)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why there is no number, each reason once, in the order of seeds."""
        return tuple(dict.fromkeys(each.reason for each in self.values if each.reason))


def cell(metric: str, records: Iterable[Record], withheld: Mapping[str, str] | None = None) -> Cell:
    """The cell of `metric` over a row's runs. `withheld`: metric -> why a table does not show it (state `na`)."""
    why = (withheld or {}).get(metric.partition(".")[0])
    values = [_withheld(record, why) if why else seed_value(metric, record) for record in records]
    return aggregate(metric, values)


def seed_value(metric: str, record: Record) -> SeedValue:
    """One metric of one run."""
    seed = record.spec.seed
    if not record.finished:
        return SeedValue(seed, "failed", reason=f"{record.status}: {record.note}" if record.note else record.status)
    if metric == WITH_BASE:
        return _with_base(record)
    entry = record.metrics.get(metric) or _without_sets(record, metric)
    if entry is None:
        return SeedValue(seed, "failed", reason=f"result.json has no '{metric}'; make it anew: bnnbench rescore")
    reason, at_bound = entry.get("reason", ""), bool(entry.get("extra", {}).get("at_bound"))
    return SeedValue(seed, entry["state"], entry.get("value"), entry.get("se"), reason, at_bound)


def aggregate(metric: str, values: Iterable[SeedValue]) -> Cell:
    """Values of one metric over seeds as a cell; they come out in the order of seeds."""
    ordered = tuple(sorted(values, key=lambda each: each.seed))
    numbers = [each.value for each in ordered if each.value is not None]
    infinite = sum(each.state == "inf" for each in ordered)
    n, not_applicable = len(numbers) + infinite, sum(each.state == "na" for each in ordered)
    if not n and not_applicable:
        # `na` is decided by rule before running, so that a run that failed would have been `na` too.
        return Cell(metric, ordered, "na", None, 0, 0)
    expected = len(ordered) - not_applicable
    if infinite or not n:
        return Cell(metric, ordered, "inf" if infinite else "failed", None, n, expected)
    return Cell(metric, ordered, "ok", interval(numbers), n, expected)


def _without_sets(record: Record, metric: str) -> Mapping[str, Any] | None:
    """For a metric on a set, what a run says that has no such sets at all: not applicable, and why."""
    entry = record.metrics.get(metric.partition(".")[0])
    return entry if entry is not None and entry["state"] == "na" else None


def _with_base(record: Record) -> SeedValue:
    own = seed_value("train_seconds", record)
    if own.value is None:
        return own
    if record.base_seconds is None:
        return SeedValue(own.seed, "failed", reason="a run that it starts from has no readable result")
    return SeedValue(own.seed, "ok", own.value + record.base_seconds)


def _withheld(record: Record, why: str) -> SeedValue:
    return SeedValue(record.spec.seed, "na", reason=why)
