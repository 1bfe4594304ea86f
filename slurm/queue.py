"""The scheduler's queue: one `squeue` call for all jobs of a user, looked up by the ids that the journal holds.

Jobs are never asked for by id: one that is gone makes `squeue` fail, or be silent about all the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from slurm.commands import UnreadableAnswer, ask
from slurm.jobs import JobId, expand

JOB_PREFIX = "bnnbench-"
"""Names of our jobs begin so; the id of the launch follows."""
FORMAT = "%F|%K|%i|%T|%r|%S|%j"
"""Array's id, index, id, state, reason, start, name. The name is last: it may hold a `|`."""
QUEUE_SECONDS = 30.0
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)


@dataclass(frozen=True)
class QueuedJob:
    """One job or array element. `state`: Slurm's word, `PENDING`, `RUNNING`, `COMPLETING`, ... `reason`: why it waits,
    `None` as a word when it does not. `start`: when it started or is expected to, as Slurm prints it (local time)."""

    id: JobId
    state: str
    reason: str
    start: str | None
    name: str

    @property
    def waiting(self) -> bool:
        """It has not been given nodes, or gave them back."""
        return self.state in WAITING

    @property
    def ended(self) -> bool:
        """It is over; the controller only remembers it."""
        return self.state in ENDED

    @property
    def active(self) -> bool:
        """It has nodes: it runs, starts, ends or is suspended."""
        return not self.waiting and not self.ended


@dataclass(frozen=True)
class Queue:
    """All jobs of one user at one moment."""

    _jobs: Mapping[tuple[int, int], QueuedJob] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[QueuedJob]:
        return iter(self._jobs.values())

    def get(self, job: JobId) -> QueuedJob | None:
        """The job, or None when the controller does not list it."""
        return self._jobs.get(job.key)

    def most_alive(self, jobs: Iterable[JobId]) -> QueuedJob | None:
        """Of several submissions of one run the one that matters: an active one, else a waiting one, else any."""
        found = [job for job in map(self.get, jobs) if job is not None]
        return max(found, key=lambda job: (job.active, job.waiting), default=None)


def parse_queue(text: str) -> Queue:
    """The jobs in what `squeue -h -o FORMAT` printed, with or without `-r`.

    Lines of a user's other jobs that cannot be read (heterogeneous jobs, names with line breaks) are passed over.

    Raises:
        UnreadableAnswer: a line of one of our jobs cannot be read; holds the line.
    """
    jobs: dict[tuple[int, int], QueuedJob] = {}
    for line in text.splitlines():
        for job in _jobs_of(line):
            jobs[job.id.key] = job
    return Queue(jobs)


def read_queue(
    user: str | None = None, seconds: float = QUEUE_SECONDS, environment: Mapping[str, str] | None = None
) -> Queue:
    """All jobs of `user` (a name or a number; this process's own by default) that have not ended: one call.

    Read it before the files of the runs: a job that is not in it has then written all that it will ever write.

    Raises:
        SchedulerError: see `commands.ask`; nothing is known about the jobs then.
    """
    user = str(os.getuid()) if user is None else user
    return parse_queue(ask(["squeue", "-u", user, "-h", "-r", "-o", FORMAT], seconds, environment))


def _jobs_of(line: str) -> list[QueuedJob]:
    fields = line.split("|", 6)
    try:
        if len(fields) != 7:
            raise UnreadableAnswer(f"{len(fields)} columns instead of 7")
        _, _, job, state, reason, start, name = fields
        ids = expand(job)
    except UnreadableAnswer as error:
        if f"|{JOB_PREFIX}" not in line:
            return []
        raise UnreadableAnswer(
            f"squeue printed a line that cannot be read: '{line}' ({error}).\n"
            f"  Expected 7 columns, {FORMAT}, with an id such as 9, 9_0 or 16_[0-3]. Is `squeue` a site's own script?"
        ) from error
    expected = None if start in ("N/A", "") else start
    return [QueuedJob(id, state.strip(), reason, expected, name.strip()) for id in ids]
