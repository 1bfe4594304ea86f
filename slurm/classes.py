"""Runs in the order of their needs, their settings after merging, and jobs that share settings.

The settings of a run: the profile's, over them the time that earlier runs took, over it what the run asks for (its
method, task and study), over it what the command line asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import TypeVar

from benchmark import Resources
from slurm.minutes import minutes_for
from slurm.profile import Profile

PACK_BELOW_SECONDS = 600
NOTHING = Resources()

Item = TypeVar("Item")

Job = tuple[str, ...]
"""The ids of the runs that one job works off, one after another; mostly one."""


@dataclass(frozen=True)
class Run:
    """What the planner knows of a run.

    needs: runs to start from; those that are not planned themselves are taken as there. asked: what its method, task
    and study say. seconds: what runs of its kind usually take (`minutes.usual_seconds`); None when it is not known.
    """

    id: str
    needs: tuple[str, ...] = ()
    asked: Resources = NOTHING
    seconds: float | None = None


@dataclass(frozen=True)
class JobClass:
    """Settings that all elements of an array share, beside the profile's."""

    gpus: int
    cpus: int
    memory_gib: float | None
    minutes: int

    def __str__(self) -> str:
        return str(Resources(gpus=self.gpus, cpus=self.cpus, memory_gib=self.memory_gib, minutes=self.minutes))


def levels(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in levels: all that a run needs is in earlier ones. Order within a level: as given.

    Raises:
        ValueError: runs need each other in a circle, or an id comes twice.
    """
    position = {run.id: index for index, run in enumerate(runs)}
    if len(position) < len(runs):
        twice = next(run.id for index, run in enumerate(runs) if position[run.id] != index)
        raise ValueError(f"run {twice} is planned twice.")
    sorter = TopologicalSorter({run.id: [need for need in run.needs if need in position] for run in runs})
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=position.__getitem__)
        found.append([runs[position[run_id]] for run_id in ready])
        sorter.done(*ready)
    return found


def group(runs: Iterable[Run], profile: Profile, command_line: Resources = NOTHING) -> dict[JobClass, list[Job]]:
    """Jobs with the same settings together.

    Runs that usually take less than ten minutes share jobs of up to `profile.pack` runs, with others that ask for the
    same; the time limit of these jobs covers all runs of the longest. Time limits that come from earlier runs are
    raised to at most twice, where this makes one class of several: many small arrays use `max_parallel` badly.
    """
    said: dict[JobClass, list[Job]] = {}
    measured: dict[JobClass, list[Job]] = {}
    for asked, bundles in _bundles(runs, profile, command_line):
        longest = max(bundles, key=lambda bundle: _minutes_of(bundle, asked, profile))
        found = said if asked.minutes is not None or longest[0].seconds is None else measured
        jobs = found.setdefault(_class_of(longest, asked, profile), [])
        jobs.extend(tuple(run.id for run in bundle) for bundle in bundles)
    for job_class, jobs in _fewer(measured).items():
        said.setdefault(job_class, []).extend(jobs)
    return said


def _bundles(
    runs: Iterable[Run], profile: Profile, command_line: Resources
) -> Iterator[tuple[Resources, list[tuple[Run, ...]]]]:
    """What is asked for, and jobs that get the same time limit for it."""
    short: dict[Resources, list[Run]] = {}
    for run in runs:
        asked = command_line.over(run.asked)
        if profile.pack > 1 and run.seconds is not None and run.seconds < PACK_BELOW_SECONDS:
            short.setdefault(asked, []).append(run)
        else:
            yield asked, [(run,)]
    for asked, together in short.items():
        yield asked, split_evenly(together, profile.pack)


def _fewer(found: dict[JobClass, list[Job]]) -> dict[JobClass, list[Job]]:
    """Classes that differ in minutes alone in one, as long as no limit is more than doubled."""
    heads: dict[JobClass, JobClass] = {}
    fewer: dict[JobClass, list[Job]] = {}
    for job_class in sorted(found, key=lambda each: -each.minutes):
        rest = replace(job_class, minutes=0)
        if rest not in heads or heads[rest].minutes > 2 * job_class.minutes:
            heads[rest] = job_class
        fewer.setdefault(heads[rest], []).extend(found[job_class])
    return fewer


def split_evenly(items: Sequence[Item], most: int) -> list[tuple[Item, ...]]:
    """As few parts of at most `most` items as can be, in order, their sizes equal or one apart, larger ones first."""
    if not items:
        return []
    parts = -(-len(items) // most)
    size, larger = divmod(len(items), parts)
    starts = [index * size + min(index, larger) for index in range(parts + 1)]
    return [tuple(items[start:end]) for start, end in pairwise(starts)]


def _class_of(job: Sequence[Run], asked: Resources, profile: Profile) -> JobClass:
    merged = asked.over(profile.resources)
    return JobClass(
        gpus=merged.gpus or 0,
        cpus=merged.cpus or 1,
        memory_gib=merged.memory_gib,
        minutes=_minutes_of(job, asked, profile),
    )


def _minutes_of(job: Sequence[Run], asked: Resources, profile: Profile) -> int:
    """What the runs ask for, else what earlier ones took, else the profile; at most what the partition takes."""
    seconds = [run.seconds for run in job if run.seconds is not None]
    if asked.minutes is not None:
        minutes = asked.minutes * len(job)
    elif len(seconds) == len(job):
        minutes = minutes_for(sum(seconds))
    else:
        minutes = profile.minutes
    return min(minutes, profile.max_minutes or minutes)
