"""What a worker does once its state is saved: have its job requeued, leave, or wait for the kill.

Slurm requeues a lost node's job by itself and must not requeue a cancelled one, so the rule asks what is going on
instead of trusting the signal: the same TERM comes with both, and with preemption.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark import EnvironmentProblem
from slurm.commands import UnreadableAnswer, ask
from slurm.jobs import JobId, expand

SHOW_SECONDS = 10.0
REQUEUE_SECONDS = 60.0
WITHOUT_PROGRESS = 3
"""What an interruption that saved nothing new counts for: a run that never gets on ends soon."""

Decision = Literal["requeue", "leave", "stay"]
"""requeue: have the job requeued, then exit.  leave: exit.  stay: wait for the kill, which is safe in every case."""


@dataclass(frozen=True)
class Received:
    """Why the worker saved. user_signal: USR2 (or what the profile uses), Slurm's announcement of the limit or of a
    preemption. term: TERM. deadline: its own timer. cancelled: it found the run's `cancel.json`."""

    user_signal: bool = False
    term: bool = False
    deadline: bool = False
    cancelled: bool = False


@dataclass(frozen=True)
class JobDetails:
    """What the controller says of one job. `preempt_time`: when it was told to go for another; None when it was not."""

    state: str
    preempt_time: str | None = None


def decide(received: Received, job: JobDetails | None) -> Decision:
    """The rule, after the checkpoint is on disk. `job`: None when the controller could not be asked.

    During scancel and when a node goes down the state is COMPLETING, during preemption and time-out RUNNING.
    """
    if received.cancelled:
        return "leave"
    if job is None:
        return "stay"
    if job.state in ("COMPLETING", "CANCELLED"):
        return "leave"
    announced = received.user_signal or received.deadline or job.preempt_time is not None
    return "requeue" if job.state == "RUNNING" and announced else "stay"


def requeue_if_due(received: Received, job: JobId, environment: Mapping[str, str] | None = None) -> Decision:
    """Apply the rule: at most two calls, of 10 and 60 seconds. Never raises for what the scheduler does.

    Returns what is left to do; `requeue` means that the job has been requeued and the process has to exit. A requeue
    that failed is `stay`.
    """
    if received.cancelled:
        return "leave"
    try:
        decision = decide(received, show_job(job, environment))
        if decision == "requeue":
            requeue(job, environment)
    except EnvironmentProblem:
        return "stay"
    return decision


def show_job(job: JobId, environment: Mapping[str, str] | None = None) -> JobDetails:
    """Ask the controller for one job.

    Raises:
        SchedulerError, UnreadableAnswer: it could not be asked, or its answer not be read.
    """
    return parse_job(ask(["scontrol", "show", "job", "-o", str(job)], SHOW_SECONDS, environment), job)


def requeue(job: JobId, environment: Mapping[str, str] | None = None) -> None:
    """Put the job, or this one element of its array, back into the queue; its processes are killed.

    Raises:
        SchedulerError: the controller refused or did not answer.
    """
    ask(["scontrol", "requeue", str(job)], REQUEUE_SECONDS, environment)


def parse_job(text: str, job: JobId) -> JobDetails:
    """The line of `job` in what `scontrol show job -o` printed, which may list a whole array.

    Raises:
        UnreadableAnswer: the job is not in it, or has no state.
    """
    for line in text.splitlines():
        if _is_about(line, job) and (state := _field(line, "JobState")) is not None:
            when = _field(line, "PreemptTime")
            return JobDetails(state, None if when in (None, "None", "N/A", "Unknown") else when)
    raise UnreadableAnswer(f"scontrol printed nothing about the state of job {job}: '{text.strip()[:300]}'")


def own_job(environment: Mapping[str, str]) -> JobId | None:
    """The job that a process runs in, by its environment: the array's element where there is one. None outside."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    text = f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID")
    return JobId.parse(text) if text else None


def spent(steps: Sequence[int | None]) -> int:
    """How many attempts the interruptions of a run count for.

    steps: how far the saved state was at each interruption, oldest first; None when nothing was saved.
    """
    before: Sequence[int | None] = [None, *steps]
    gained = [step is not None and (last is None or step > last) for last, step in zip(before, steps, strict=False)]
    return sum(1 if more else WITHOUT_PROGRESS for more in gained)


def _field(line: str, name: str) -> str | None:
    match = re.search(rf"(?<!\S){name}=(\S*)", line)
    return match[1] if match else None


def _is_about(line: str, job: JobId) -> bool:
    array, tasks = _field(line, "ArrayJobId"), _field(line, "ArrayTaskId")
    if array is None or tasks is None:
        return _field(line, "JobId") == str(job.master)
    if job.task is None:  # an element also has a number of its own
        return _field(line, "JobId") == str(job.master)
    return array == str(job.master) and JobId(job.master, job.task) in expand(f"{array}_[{tasks}]")
