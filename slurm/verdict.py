"""What a submitted run's status is: one pure function of its files, the queue and accounting.

The files are the truth, and what they record of an end stands. The queue says whether more is to come; accounting only
explains why there is nothing. Both may be missing; a scheduler that does not answer makes a run `unknown`, not `lost`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from slurm.accounting import AccountingRow
from slurm.queue import QueuedJob

FRESH_SECONDS = 90.0
"""A running job whose heartbeat is older is called silent; the worker beats every few seconds."""
GONE_SECONDS = 120.0
"""So long after its last sign of life a job that left the queue is believed to have left nothing: a shared file system
shows files late."""
NEAR_LIMIT = 0.9
"""Share of the memory limit from which on a SIGKILL is put down to memory."""
SIGKILL = 9
PROBLEMS = {
    "DependencyNeverSatisfied": "waits for a job that ended otherwise, for ever: cancel it, then run the study again",
    "JobHeldUser": "held: scontrol release {id}",
    "JobHeldAdmin": "held by an administrator of the cluster: ask there",
    "BadConstraints": "no node has what the profile asks for: cancel it and change the profile",
    "PartitionTimeLimit": "its time limit is above the partition's: cancel it and ask for fewer minutes",
    "launch failed requeued held": "could not be launched on a node and is held: scontrol release {id}",
}
"""Reasons of waiting jobs that do not go away by themselves -> what to do."""


@dataclass(frozen=True)
class Recorded:
    """How the last attempt ended, by its own record (`ok`: a valid result). `retriable`: the machine's fault, not the
    code's. `by_sigkill`: its child died of SIGKILL that nobody of ours had sent. `terminated`: it saved and left while
    its job was being taken down (`requeue.decide` said `leave`): by scancel, unless Slurm starts it again."""

    status: str
    message: str = ""
    retriable: bool = False
    by_sigkill: bool = False
    terminated: bool = False


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder says.

    heartbeat_age: seconds (see `ages`), of the attempt that has no record; None when there is no such attempt.
    silent: seconds since the last sign of life of any kind: submission, heartbeat, record.
    progress: `step 3/10, 2.1/s, 5 min left`, for people.  cancelled: `bnnbench cancel` was asked to stop it.
    peak_bytes, limit_bytes: the most memory it was seen to use, and what its job may use.
    """

    silent: float
    recorded: Recorded | None = None
    heartbeat_age: float | None = None
    progress: str = ""
    cancelled: bool = False
    peak_bytes: int | None = None
    limit_bytes: int | None = None

    @property
    def near_limit(self) -> bool:
        """Whether memory was nearly used up when last seen."""
        if not self.peak_bytes or not self.limit_bytes:
            return False
        return self.peak_bytes >= NEAR_LIMIT * self.limit_bytes


@dataclass(frozen=True)
class Verdict:
    """`name`: pending, requeued, running, unknown, or how the run ended: ok, failed, oom, timeout, killed, lost, ...
    `retryable`: the next `run` may take it up by itself (see `may_retry`). `problem`: it waits for a person."""

    name: str
    note: str = ""
    retryable: bool = False
    problem: bool = False

    @property
    def text(self) -> str:
        """For a table's cell: `pending (Resources)`, `running, silent for 95 s`, `killed (cancelled by ada)`."""
        if not self.note:
            return self.name
        return f"{self.name}, {self.note}" if self.name == "running" else f"{self.name} ({self.note})"


def verdict(
    files: RunFiles, queued: QueuedJob | None, accounting: AccountingRow | None = None, *, reachable: bool = True
) -> Verdict:
    """The status of a run that was submitted.

    queued: its job in the queue, which was read before the files; None when it is not there.
    accounting: the newest row of its last job; None without accounting, or when the database does not know it.
    reachable: whether the queue could be read at all.
    """
    recorded = _recorded(files)
    if recorded is not None and not recorded.retriable:
        return Verdict(recorded.status, recorded.message)
    if not reachable:
        return Verdict("unknown", f"scheduler unreachable; {_last_sign(files)}")
    if queued is not None and queued.waiting:
        return _waiting(files, queued)
    if queued is not None and queued.active:
        return _running(files)
    if files.cancelled:
        return Verdict("killed", "cancelled")
    row = accounting
    if row is None and queued is not None:  # the controller still remembers how it ended
        row = AccountingRow(queued.id, queued.state)
    if recorded is not None:
        return _stopped(files, recorded, row)
    return _explained(files, row) or _absent(files, row)


def may_retry(
    verdict: Verdict, spent: int, *, max_attempts: int, progressed: bool, smaller_micro_batch: bool = False
) -> bool:
    """Whether `run` takes a run up again by itself.

    spent: attempts as `requeue.spent` counts them. progressed: a checkpoint is newer than that of the attempt before.
    smaller_micro_batch: the method can do with less memory than it used.
    """
    if spent >= max_attempts:
        return False
    if verdict.name == "oom":
        return smaller_micro_batch
    if verdict.name == "timeout":
        return progressed
    return verdict.retryable


def _recorded(files: RunFiles) -> Recorded | None:
    recorded = files.recorded
    if recorded is not None and recorded.status == "killed" and recorded.by_sigkill and files.near_limit:
        return replace(recorded, status="oom", message=_memory(files), retriable=False)
    return recorded


def _waiting(files: RunFiles, queued: QueuedJob) -> Verdict:
    if files.cancelled:
        return Verdict("pending", "being cancelled")
    if queued.reason in PROBLEMS or queued.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"):
        what = PROBLEMS.get(queued.reason, "held: scontrol release {id}").format(id=queued.id)
        return Verdict("pending", f"{queued.reason}: {what}", problem=True)
    if queued.reason == "BeginTime" or queued.state == "REQUEUED":
        return Verdict("requeued", f"starts at {queued.start}" if queued.start else "")
    return Verdict(
        "pending", "" if queued.reason == "None" else queued.reason
    )  # None: not looked at by the scheduler yet


def _running(files: RunFiles) -> Verdict:
    if files.cancelled:
        return Verdict("running", "being cancelled")
    if files.heartbeat_age is None:
        return Verdict("running", "no heartbeat yet")
    if files.heartbeat_age < FRESH_SECONDS:
        return Verdict("running", files.progress)
    return Verdict("running", f"silent for {files.heartbeat_age:.0f} s")


def _stopped(files: RunFiles, recorded: Recorded, row: AccountingRow | None) -> Verdict:
    """It saved and stopped, and its job is gone: nobody starts it again but us."""
    if recorded.terminated:
        return _explained(files, row) or Verdict("killed", "cancelled")
    if row is not None and row.state == "CANCELLED" and recorded.status == "killed":
        return _cancelled(row)
    return Verdict(recorded.status, recorded.message, retryable=True)


def _cancelled(row: AccountingRow) -> Verdict:
    return Verdict("killed", f"cancelled by {row.cancelled_by}" if row.cancelled_by else "cancelled")


def _explained(files: RunFiles, row: AccountingRow | None) -> Verdict | None:
    """What accounting says for certain of a job that recorded nothing."""
    if row is None:
        return None
    match row.state:
        case "TIMEOUT" | "DEADLINE":
            return Verdict("timeout", "time limit of its job, nothing recorded", retryable=True)
        case "OUT_OF_MEMORY":
            return Verdict("oom", "out of memory, says Slurm")
        case "CANCELLED":
            return _cancelled(row)
        case "NODE_FAIL" | "BOOT_FAIL" | "PREEMPTED" | "REVOKED" as state:
            return Verdict("lost", state, retryable=True)
        case "FAILED":
            return _failed(files, row)
    return None


def _failed(files: RunFiles, row: AccountingRow) -> Verdict | None:
    number = row.exit_code.signal or row.derived.signal
    if number == SIGKILL and files.near_limit:
        return Verdict("oom", _memory(files))
    if number:
        return Verdict("killed", f"signal {number}", retryable=True)
    if row.exit_code.status:  # recorded failures exit 0: this one did not get that far
        return Verdict("failed", f"exit {row.exit_code.status} of its job, nothing recorded: see its log")
    return None


def _absent(files: RunFiles, row: AccountingRow | None) -> Verdict:
    """Not in the queue, and nobody says why."""
    if files.silent < GONE_SECONDS:
        return Verdict(
            "running" if files.heartbeat_age is not None else "pending", f"not in the queue; {_last_sign(files)}"
        )
    said = f", {row.state} says Slurm" if row is not None else ""
    return Verdict("lost", f"not in the queue{said}; {_last_sign(files)}", retryable=True)


def _last_sign(files: RunFiles) -> str:
    return f"last sign of life {files.silent:.0f} s ago"


def _memory(files: RunFiles) -> str:
    used, limit = (files.peak_bytes or 0) / 2**30, (files.limit_bytes or 0) / 2**30
    return f"killed by signal 9 at {used:.2f} of {limit:.2f} GiB"
