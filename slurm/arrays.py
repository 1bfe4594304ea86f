"""Arrays that Slurm takes: split at its limits, never more jobs at a time than wanted, in the order of needs.

Arrays are put into stages. Every array of a stage is submitted with `afterany` on all arrays of the stage before, so
stages never run at the same time, and the `%N` of one stage share `max_parallel`. Not `afterok`: after a failure Slurm
would keep such a job in the queue for ever; the job itself looks whether its needs are there.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmark import Resources
from slurm.classes import NOTHING, Job, JobClass, Run, group, levels, split_evenly
from slurm.profile import Profile

MAX_ARRAY_SIZE = 1001
"""Slurm's default `MaxArraySize`, for a cluster that does not say: so many elements are taken, one more is refused."""


@dataclass(frozen=True)
class Array:
    """Jobs of one class that are submitted together; one alone becomes a plain job.

    parallel: how many run at a time, `%N`. stage: it starts when all arrays of the stage before have ended.
    """

    job_class: JobClass
    jobs: tuple[Job, ...]
    parallel: int
    stage: int

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs of all its jobs, in order."""
        return tuple(run_id for job in self.jobs for run_id in job)

    def first(self, number: int) -> Array:
        """Its first jobs alone."""
        return replace(self, jobs=self.jobs[:number], parallel=min(self.parallel, number))

    def halves(self) -> tuple[Array, Array]:
        """Two arrays that share jobs and `%N`. `%1` cannot be shared: both keep it, one has to wait for the other."""
        one, other = split_evenly(self.jobs, -(-len(self.jobs) // 2))
        less = self.parallel // 2
        return (
            replace(self, jobs=one, parallel=self.parallel - less),
            replace(self, jobs=other, parallel=max(1, less)),
        )


def plan_arrays(
    runs: Sequence[Run], profile: Profile, max_array_size: int = MAX_ARRAY_SIZE, command_line: Resources = NOTHING
) -> list[Array]:
    """The arrays of a launch, in the order of submission: every run once.

    max_array_size: the cluster's, where the profile does not say. command_line: what was asked for all runs there.
    """
    most = profile.max_array_size or max_array_size
    found: list[Array] = []
    for level in levels(runs):
        parts = [
            (job_class, jobs)
            for job_class, together in group(level, profile, command_line).items()
            for jobs in split_evenly(together, most)
        ]
        # An array runs one job at a time at least: of more than max_parallel arrays, some have to wait.
        for wave in split_evenly(parts, profile.max_parallel or max(1, len(parts))):
            stage = found[-1].stage + 1 if found else 0
            widths = share([len(jobs) for _, jobs in wave], profile.max_parallel)
            found += [Array(*part, width, stage) for part, width in zip(wave, widths, strict=True)]
    return found


def share(sizes: Sequence[int], max_parallel: int | None) -> list[int]:
    """`max_parallel` divided over arrays of these sizes: about in proportion, 1 each at least, no more than an array
    has jobs. None: all jobs of all arrays at once.

    Raises:
        ValueError: there are more arrays than that.
    """
    if max_parallel is None or sum(sizes) <= max_parallel:
        return list(sizes)
    if len(sizes) > max_parallel:
        raise ValueError(f"{len(sizes)} arrays cannot share {max_parallel} jobs at a time.")
    widths = [1] * len(sizes)
    longest = [(-float(size), index) for index, size in enumerate(sizes)]  # by jobs per place
    heapq.heapify(longest)
    for _ in range(max_parallel - len(sizes)):
        _, index = heapq.heappop(longest)
        widths[index] += 1
        heapq.heappush(longest, (-sizes[index] / widths[index], index))
    return widths


@dataclass(frozen=True)
class Submitted:
    """An array that was accepted, and under which id."""

    array: Array
    job_id: str


@dataclass(frozen=True)
class Submission:
    """What became of arrays: those in the queue, and the runs that no room was left for, in order."""

    submitted: tuple[Submitted, ...]
    left: tuple[str, ...]


Submit = Callable[[Array, Sequence[str]], str | None]
"""Submits an array that starts after the jobs of these ids have ended. Returns its id, or None when the cluster refuses
it because the user has too many jobs queued; raises for everything else. It keeps record of what it submits."""


def submit_arrays(arrays: Sequence[Array], submit: Submit, room: int | None = None) -> Submission:
    """Submit until all are in the queue or the cluster takes no more; a refused array is halved until parts of it fit.

    Nothing is submitted out of order, so that no run gets into the queue before what it needs. An exception of `submit`
    passes; what was accepted until then is in the queue.

    room: how many jobs may be submitted; None for as many as the cluster takes.
    """
    submitted: list[Submitted] = []
    for array in arrays:
        free = len(array.jobs) if room is None else room - sum(len(part.array.jobs) for part in submitted)
        before = [part.job_id for part in submitted if part.array.stage == array.stage - 1]
        parts = _submit_parts(array.first(free), before, submit) if free > 0 else []
        submitted += parts
        if sum(len(part.array.jobs) for part in parts) < len(array.jobs):
            break
    gone = {run_id for part in submitted for run_id in part.array.run_ids}
    return Submission(tuple(submitted), tuple(r for array in arrays for r in array.run_ids if r not in gone))


def _submit_parts(array: Array, after: Sequence[str], submit: Submit) -> list[Submitted]:
    """What the cluster takes of an array: all of it, or as many of its first jobs as there is room for."""
    if (job_id := submit(array, after)) is not None:
        return [Submitted(array, job_id)]
    if len(array.jobs) == 1:
        return []
    one, other = array.halves()
    parts = _submit_parts(one, after, submit)
    if sum(len(part.array.jobs) for part in parts) < len(one.jobs):
        return parts
    if array.parallel == 1:
        after = [*after, *(part.job_id for part in parts)]
    return parts + _submit_parts(other, after, submit)
