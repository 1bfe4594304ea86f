"""Job ids, `squeue`, and calling commands."""

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_commands import called, environment, stand_in

from slurm.commands import (
    CommandMissing,
    SchedulerError,
    SchedulerUnreachable,
    UnknownJob,
    UnreadableAnswer,
    ask,
)
from slurm.jobs import JobId, expand
from slurm.queue import FORMAT, parse_queue, read_queue

CAPTURED = """\
16|0|16_0|RUNNING|None|2026-03-02T10:00:01|bnnbench-20260302-095959-a1b2c3
16|3|16_3|PENDING|JobArrayTaskLimit|N/A|bnnbench-20260302-095959-a1b2c3
17|N/A|17|PENDING|BeginTime|2026-03-02T10:04:31|bnnbench-20260302-095959-a1b2c3
18|N/A|18|PENDING|DependencyNeverSatisfied|N/A|bnnbench-20260302-095959-a1b2c3
21|N/A|21|COMPLETING|None|2026-03-02T09:58:00|bnnbench-20260302-095959-a1b2c3
22|0-3,7%2|22_[0-3,7%2]|PENDING|JobHeldUser|N/A|bnnbench-20260302-100500-d4e5f6
30|N/A|30+1|RUNNING|None|2026-03-02T10:00:01|a heterogeneous job of another kind
31|N/A|31|RUNNING|None|2026-03-02T10:00:01|name | with bars
"""


@given(
    st.integers(1, 2**31 - 1), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 6)), min_size=1, max_size=6),
    st.sampled_from(["", "%1", "%256"]),
)  # fmt: skip
def test_the_short_form_of_an_array_expands_to_exactly_its_elements(master, ranges, limit):
    parts = [str(first) if more == 0 else f"{first}-{first + more}" for first, more in ranges]
    wanted = [JobId(master, task) for first, more in ranges for task in range(first, first + more + 1)]
    assert list(expand(f"{master}_[{','.join(parts)}{limit}]")) == wanted


@given(st.integers(1, 2**31 - 1), st.none() | st.integers(0, 10**6))
def test_an_id_is_read_back_from_its_text(master, task):
    assert expand(str(JobId(master, task))) == (JobId(master, task),)
    assert JobId.parse(str(JobId(master, task))) == JobId(master, task)


def test_steps_of_a_range_are_honoured():
    assert [str(job) for job in expand("16_[1-7:3%2]")] == ["16_1", "16_4", "16_7"]


@pytest.mark.parametrize(
    "text", ["", "9.batch", "9_", "_3", "30+1", "16_[0-3,...]", "16_[3-0]", "16_[0-1:0]", "x", "٣"]
)
def test_what_is_no_id_is_refused_and_named(text):
    with pytest.raises(UnreadableAnswer, match="id"):
        expand(text)


def test_a_range_beyond_any_array_is_refused_before_it_fills_the_memory():
    with pytest.raises(UnreadableAnswer, match="0-99999999999"):
        expand("16_[0-99999999999]")


def test_captured_lines_become_jobs_with_state_reason_and_start():
    queue = parse_queue(CAPTURED)
    assert len(queue) == 11
    running = queue.get(JobId(16, 0))
    assert (running.state, running.active, running.start) == ("RUNNING", True, "2026-03-02T10:00:01")
    limited = queue.get(JobId(16, 3))
    assert (limited.waiting, limited.reason, limited.start) == (True, "JobArrayTaskLimit", None)
    assert queue.get(JobId(21)).active
    assert [queue.get(JobId(22, task)).reason for task in (0, 1, 2, 3, 7)] == ["JobHeldUser"] * 5
    assert queue.get(JobId(22, 4)) is None
    assert queue.get(JobId(31)).name == "name | with bars"


def test_an_array_of_one_element_is_found_as_the_plain_job_that_it_became():
    assert parse_queue(CAPTURED).get(JobId(17, 0)).reason == "BeginTime"
    assert parse_queue(CAPTURED).get(JobId(17, 1)) is None


def test_of_several_submissions_the_running_one_counts_before_a_waiting_one():
    queue = parse_queue(CAPTURED)
    assert queue.most_alive([JobId(17), JobId(16, 0), JobId(99)]).id == JobId(16, 0)
    assert queue.most_alive([JobId(17), JobId(99)]).id == JobId(17)
    assert queue.most_alive([JobId(99)]) is None


def test_an_unreadable_line_of_our_own_job_is_an_error_that_shows_it():
    with pytest.raises(UnreadableAnswer, match=r"'5 RUNNING\|bnnbench-x'"):
        parse_queue("5 RUNNING|bnnbench-x\n")


def test_the_queue_is_one_call_for_all_jobs_whatever_a_user_set_for_his_own_listings(tmp_path):
    stand_in(tmp_path, "squeue", CAPTURED)
    seen = environment(tmp_path, SQUEUE_STATES="RUNNING", SQUEUE_FORMAT="%i", SLURM_CONF="/etc/slurm.conf")
    assert len(read_queue("ada", environment=seen)) == 11
    assert called(tmp_path, "squeue") == [f"-u ada -h -r -o {FORMAT}"]
    printed = ask(["env"], 10, seen)
    assert "SQUEUE" not in printed
    assert "SLURM_CONF=/etc/slurm.conf\n" in printed
    assert "LC_ALL=C\n" in printed


def test_an_empty_queue_is_an_answer(tmp_path):
    stand_in(tmp_path, "squeue", "")
    assert len(read_queue("ada", environment=environment(tmp_path))) == 0


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", SchedulerUnreachable),
        ("slurm_load_jobs error: Socket timed out on send/recv operation", SchedulerUnreachable),
        ("squeue: error: If munged is up, restart with --num-threads=10\nMunge encode failed", SchedulerUnreachable),
        ("slurm_load_jobs error: Invalid job id specified", UnknownJob),
        ("squeue: error: Invalid user: nobody2", SchedulerError),
    ],
)
def test_ways_of_failing_are_told_apart_and_shown_verbatim(tmp_path, said, kind):
    stand_in(tmp_path, "squeue", said=said, code=1)
    with pytest.raises(SchedulerError) as error:
        read_queue("ada", environment=environment(tmp_path))
    assert type(error.value) is kind
    assert said in str(error.value)
    assert error.value.code == 1


def test_a_missing_command_says_what_to_install():
    with pytest.raises(CommandMissing, match="login node"):
        ask(["no-such-scheduler-command"], 5)


def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path):
    pids = tmp_path / "pid"
    command = ["sh", "-c", f"sleep 60 & echo $! > {pids}; wait"]
    begun = time.monotonic()
    with pytest.raises(SchedulerUnreachable, match=r"killed after 0\.5 s"):
        ask(command, 0.5)
    assert time.monotonic() - begun < 10
    child = int(pids.read_text())
    deadline = time.monotonic() + 10
    while _alive(child):
        assert time.monotonic() < deadline, "the helper of the command is still there"
        time.sleep(0.02)


def test_a_call_is_not_cut_short_by_a_signal_to_the_callers_group(tmp_path):
    stand_in(tmp_path, "squeue", CAPTURED, seconds=1)
    code = (
        "import signal, os, threading\nfrom slurm.queue import read_queue\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "threading.Timer(0.4, lambda: os.killpg(0, signal.SIGTERM)).start()\n"
        f"print(len(read_queue('ada', environment={environment(tmp_path)!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("11\n", 0), done.stderr


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as handle:
        return handle.read().rpartition(")")[2].split()[0] not in "ZX"
