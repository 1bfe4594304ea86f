"""The status of a submitted run, from its files, the queue and accounting."""

import os
import time
from dataclasses import replace

import pytest

from benchmark import EnvironmentProblem, clock_of
from slurm.accounting import Accounting, AccountingRow, ExitCode, parse_accounting
from slurm.ages import age
from slurm.jobs import JobId
from slurm.queue import QueuedJob, parse_queue
from slurm.verdict import Recorded, RunFiles, Verdict, may_retry, verdict

JOB = JobId(9, 0)
GIB = 2**30
FINE = ExitCode()
BLANK = RunFiles(silent=10.0)
GONE = RunFiles(silent=121.0)
BEATING = RunFiles(silent=5.0, heartbeat_age=5.0, progress="step 3/10, 2.1/s, 4 min left")
SILENT = RunFiles(silent=300.0, heartbeat_age=300.0)
DONE = RunFiles(silent=5000.0, recorded=Recorded("ok"))
FAILED = RunFiles(silent=5000.0, recorded=Recorded("failed", "ValueError: x"))
SAVED = RunFiles(silent=130.0, recorded=Recorded("killed", "stopped (USR2)", retriable=True))
TERMINATED = RunFiles(silent=130.0, recorded=Recorded("killed", "stopped (TERM)", retriable=True, terminated=True))
KILLED_CHILD = RunFiles(silent=130.0, recorded=Recorded("killed", "SIGKILL", retriable=True, by_sigkill=True))
NEAR = {"peak_bytes": 15 * GIB, "limit_bytes": 16 * GIB}


def queued(state: str, reason: str = "None", start: str | None = None) -> QueuedJob:
    return QueuedJob(JOB, state, reason, start, "bnnbench-x")


def row(state: str, code: ExitCode = FINE, derived: ExitCode = FINE, by: str | None = None) -> AccountingRow:
    return AccountingRow(JOB, state, code, derived, 60, "node1", by)


RUNNING = queued("RUNNING")
PENDING = queued("PENDING", "Resources")

# Files, queue, and what is shown whether or not there is accounting.
WITHOUT_ACCOUNTING = {
    "a valid result": (DONE, None, "ok"),
    "a valid result while the job ends": (DONE, queued("COMPLETING"), "ok"),
    "a valid result, another submission waits": (DONE, PENDING, "ok"),
    "a recorded failure in a job that goes on with other runs": (FAILED, RUNNING, "failed (ValueError: x)"),
    "pending, with the reason": (BLANK, PENDING, "pending (Resources)"),
    "pending, not looked at yet": (BLANK, queued("PENDING"), "pending"),
    "behind the limit of its array": (BLANK, queued("PENDING", "JobArrayTaskLimit"), "pending (JobArrayTaskLimit)"),
    "requeued": (SAVED, queued("PENDING", "BeginTime", "T"), "requeued (starts at T)"),
    "held by the user": (BLANK, queued("PENDING", "JobHeldUser"), "pending (JobHeldUser: held: scontrol release 9_0)"),
    "being cancelled while it waits": (replace(BLANK, cancelled=True), PENDING, "pending (being cancelled)"),
    "running": (BEATING, RUNNING, "running, step 3/10, 2.1/s, 4 min left"),
    "just started": (GONE, RUNNING, "running, no heartbeat yet"),
    "heartbeat of 89 s": (replace(SILENT, heartbeat_age=89.0), RUNNING, "running"),
    "heartbeat of 91 s": (replace(SILENT, heartbeat_age=91.0), RUNNING, "running, silent for 91 s"),
    "started again after it saved": (SAVED, RUNNING, "running, no heartbeat yet"),
    "being cancelled while it runs": (replace(BEATING, cancelled=True), RUNNING, "running, being cancelled"),
    "suspended": (SILENT, queued("SUSPENDED"), "running, silent for 300 s"),
    "cancelled before it started": (replace(GONE, cancelled=True), None, "killed (cancelled)"),
    "cancelled after it saved": (replace(SAVED, cancelled=True), None, "killed (cancelled)"),
    "terminated by scancel": (TERMINATED, None, "killed (cancelled)"),
    "saved, and its job is gone": (SAVED, None, "killed (stopped (USR2))"),
    "its child was killed": (KILLED_CHILD, None, "killed (SIGKILL)"),
    "its child was killed near the memory limit": (
        replace(KILLED_CHILD, **NEAR), None, "oom (killed by signal 9 at 15.00 of 16.00 GiB)"
    ),
    "its child was killed far from the limit": (
        replace(KILLED_CHILD, peak_bytes=14 * GIB, limit_bytes=16 * GIB), None, "killed (SIGKILL)"
    ),
    "left the queue a moment ago": (
        replace(BEATING, silent=119.0), None, "running, not in the queue; last sign of life 119 s ago"
    ),
    "submitted a moment ago": (BLANK, None, "pending (not in the queue; last sign of life 10 s ago)"),
    "gone for 121 s": (GONE, None, "lost (not in the queue; last sign of life 121 s ago)"),
    "gone after heartbeats": (SILENT, None, "lost (not in the queue; last sign of life 300 s ago)"),
}  # fmt: skip

# Accounting's row, of a job that left no record and is not in the queue.
WITH_ACCOUNTING = {
    "completed": (GONE, row("COMPLETED"), "lost (not in the queue, COMPLETED says Slurm; last sign of life 121 s ago)"),
    "completed a moment ago": (BLANK, row("COMPLETED"), "pending (not in the queue; last sign of life 10 s ago)"),
    "not known to the database": (GONE, None, "lost (not in the queue; last sign of life 121 s ago)"),
    "time-out": (SILENT, row("TIMEOUT"), "timeout (time limit of its job, nothing recorded)"),
    "time-out seen at once": (BEATING, row("TIMEOUT"), "timeout (time limit of its job, nothing recorded)"),
    "out of memory": (SILENT, row("OUT_OF_MEMORY", ExitCode(0, 125)), "oom (out of memory, says Slurm)"),
    "killed by 9 under srun": (SILENT, row("FAILED", ExitCode(9), ExitCode(0, 9)), "killed (signal 9)"),
    "killed by 9 near the memory limit": (
        replace(SILENT, **NEAR), row("FAILED", ExitCode(9), ExitCode(0, 9)),
        "oom (killed by signal 9 at 15.00 of 16.00 GiB)",
    ),
    "exit(9) is not a kill": (
        SILENT, row("FAILED", ExitCode(9), ExitCode(9)), "failed (exit 9 of its job, nothing recorded: see its log)"
    ),
    "batch shell killed": (SILENT, row("FAILED", ExitCode(0, 9)), "killed (signal 9)"),
    "batch shell killed by USR2": (SILENT, row("FAILED", ExitCode(0, 12)), "killed (signal 12)"),
    "failed with 1": (
        GONE, row("FAILED", ExitCode(1), ExitCode(1)), "failed (exit 1 of its job, nothing recorded: see its log)"
    ),
    "cancelled": (SILENT, row("CANCELLED", by="ada"), "killed (cancelled by ada)"),
    "cancelled after it saved": (SAVED, row("CANCELLED", by="ada"), "killed (cancelled by ada)"),
    "terminated and cancelled": (TERMINATED, row("CANCELLED", by="ada"), "killed (cancelled by ada)"),
    "terminated with its node": (TERMINATED, row("NODE_FAIL"), "lost (NODE_FAIL)"),
    "node failure": (SILENT, row("NODE_FAIL"), "lost (NODE_FAIL)"),
    "preempted": (SILENT, row("PREEMPTED"), "lost (PREEMPTED)"),
    "requeued, and no later row for long": (
        SILENT, row("REQUEUED"), "lost (not in the queue, REQUEUED says Slurm; last sign of life 300 s ago)"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "job", "shown"), WITHOUT_ACCOUNTING.values(), ids=WITHOUT_ACCOUNTING)
def test_status_without_accounting(files, job, shown):
    assert verdict(files, job).text == shown


@pytest.mark.parametrize(
    "name", [name for name, case in WITHOUT_ACCOUNTING.items() if case[1] is not None or case[0] is DONE]
)
@pytest.mark.parametrize("state", ["COMPLETED", "TIMEOUT", "PREEMPTED", "FAILED"])
def test_accounting_changes_nothing_where_a_result_or_the_queue_speaks(name, state):
    files, job, shown = WITHOUT_ACCOUNTING[name]
    assert verdict(files, job, row(state, ExitCode(1), ExitCode(1))).text == shown


@pytest.mark.parametrize(("files", "accounting", "shown"), WITH_ACCOUNTING.values(), ids=WITH_ACCOUNTING)
def test_status_with_accounting_of_a_job_that_left_the_queue(files, accounting, shown):
    assert verdict(files, None, accounting).text == shown


@pytest.mark.parametrize("files", [BLANK, GONE, BEATING, SILENT, SAVED, TERMINATED, replace(GONE, cancelled=True)])
@pytest.mark.parametrize("accounting", [None, row("TIMEOUT"), row("NODE_FAIL")])
def test_a_scheduler_that_does_not_answer_makes_a_run_unknown_and_never_lost(files, accounting):
    shown = verdict(files, None, accounting, reachable=False)
    assert shown.text == f"unknown (scheduler unreachable; last sign of life {files.silent:.0f} s ago)"
    assert not shown.retryable


@pytest.mark.parametrize(("files", "name"), [(DONE, "ok"), (FAILED, "failed")])
def test_what_the_files_say_needs_no_scheduler(files, name):
    assert verdict(files, None, reachable=False).name == name


def test_what_a_person_has_to_mend_is_marked_with_what_to_do():
    for reason in ("DependencyNeverSatisfied", "JobHeldUser", "BadConstraints"):
        assert verdict(BLANK, queued("PENDING", reason)).problem
    assert "cancel it" in verdict(BLANK, queued("PENDING", "DependencyNeverSatisfied")).note
    assert verdict(BLANK, queued("REQUEUE_HOLD", "launch failed requeued held")).problem
    assert not verdict(BLANK, PENDING).problem


def test_an_end_that_only_the_controller_remembers_explains_as_accounting_does():
    assert verdict(SILENT, queued("TIMEOUT")).name == "timeout"
    assert verdict(SILENT, queued("NODE_FAIL")).text == "lost (NODE_FAIL)"
    assert verdict(SILENT, queued("FAILED")).name == "lost"  # without its exit code


@pytest.mark.parametrize(
    ("shown", "progressed", "smaller", "again"),
    [
        (verdict(SILENT, None, row("NODE_FAIL")), False, False, True),
        (verdict(SILENT, None), False, False, True),
        (verdict(SILENT, None, row("TIMEOUT")), True, False, True),
        (verdict(SILENT, None, row("TIMEOUT")), False, False, False),
        (verdict(SILENT, None, row("OUT_OF_MEMORY")), True, False, False),
        (verdict(SILENT, None, row("OUT_OF_MEMORY")), False, True, True),
        (verdict(SILENT, None, row("CANCELLED")), True, True, False),
        (verdict(TERMINATED, None), True, True, False),
        (verdict(FAILED, None), True, True, False),
        (verdict(replace(BLANK, recorded=Recorded("diverged")), None), True, True, False),
        (verdict(BEATING, RUNNING), True, True, False),
        (verdict(SAVED, None), False, False, True),
    ],
)
def test_only_what_the_machine_did_is_tried_again(shown: Verdict, progressed, smaller, again):
    def judged(spent):
        return may_retry(shown, spent, max_attempts=10, progressed=progressed, smaller_micro_batch=smaller)

    assert judged(9) is again
    assert judged(10) is False


def test_the_age_of_a_file_is_told_by_the_clock_that_stamped_it(tmp_path):
    beat = tmp_path / "heartbeat"
    beat.touch()
    now = clock_of(tmp_path)
    assert age(beat, now) < 5
    os.utime(beat, (now - 100, now - 100))
    assert age(beat, now) == pytest.approx(100, abs=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["heartbeat"]


def test_a_heartbeat_from_the_future_is_fresh_and_a_missing_one_has_no_age(tmp_path):
    beat = tmp_path / "heartbeat"
    beat.touch()
    now = clock_of(tmp_path)
    os.utime(beat, (now + 600, now + 600))
    assert age(beat, now) == 0
    assert age(tmp_path / "other", now) is None


def test_a_folder_that_cannot_be_probed_is_named(tmp_path):
    with pytest.raises(EnvironmentProblem, match="gone is not writable"):
        clock_of(tmp_path / "gone")


@pytest.mark.benchmarks
def test_ten_thousand_runs_are_judged_within_a_second():
    n, masters = 10_000, range(100, 110)
    lines = [
        f"{m}|{k}|{m}_{k}|{'RUNNING' if k < 300 else 'PENDING'}|None|2026-03-02T10:00:01|bnnbench-x"
        for m in masters for k in range(1000)
    ]  # fmt: skip
    ended = [f"{m}_{k}|FAILED|9:0|0:9|00:01:05|node1" for m in range(200, 210) for k in range(1000)]
    begun = time.perf_counter()
    queue = parse_queue("\n".join(lines))
    parsed = time.perf_counter()
    accounting: Accounting = parse_accounting("\n".join(ended))
    accounted = time.perf_counter()
    live = [verdict(BEATING, queue.get(JobId(m, k))) for m in masters for k in range(1000)]
    gone = [
        verdict(SILENT, queue.get(id), accounting.last(id))
        for id in (JobId(m + 100, k) for m in masters for k in range(1000))
    ]
    took = time.perf_counter() - begun
    print(
        f"\nqueue {parsed - begun:.3f} s, accounting {accounted - parsed:.3f} s, {2 * n} verdicts in all {took:.3f} s"
    )
    assert sum(v.name == "running" for v in live) == 3000
    assert {v.name for v in gone} == {"killed"}
    assert took < 1
