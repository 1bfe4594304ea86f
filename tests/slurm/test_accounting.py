"""`sacct`: optional, detected once, all incarnations of a job."""

import pytest
from scheduler_commands import called, environment, stand_in

from slurm.accounting import (
    COLUMNS,
    MASTERS_PER_CALL,
    ExitCode,
    detect_accounting,
    parse_accounting,
    read_accounting,
    user_name,
)
from slurm.commands import SchedulerUnreachable, UnreadableAnswer
from slurm.jobs import JobId

CAPTURED = """\
9|COMPLETED|0:0|0:0|00:00:02|node1
10|FAILED|1:0|1:0|00:00:03|node1
11|FAILED|9:0|0:9|00:00:05|node1
12|CANCELLED by 0|0:0|0:0|00:01:04|node1
13_0|REQUEUED|0:0|0:0|00:00:41|node1
13_0|REQUEUED|0:0|0:0|00:00:45|node2
13_0|COMPLETED|0:0|0:0|1-02:03:04|node[1-2,7]
14_[0-3,7%2]|PENDING|0:0|0:0|00:00:00|None assigned
16_[0]|PENDING|0:0|0:0|00:00:00|None assigned
15|TIMEOUT|0:0|0:0|01:05|node1
15.batch|CANCELLED|0:15||01:06|node1
"""


def test_captured_rows_become_states_codes_times_and_nodes():
    rows = parse_accounting(CAPTURED)
    killed = rows.last(JobId(11))
    assert (killed.state, killed.exit_code, killed.derived) == ("FAILED", ExitCode(9, 0), ExitCode(0, 9))
    assert rows.last(JobId(15)).state == "TIMEOUT"
    assert rows.last(JobId(15)).seconds == 65
    assert rows.last(JobId(14, 7)).state == "PENDING"
    assert rows.last(JobId(14, 5)) is None
    assert rows.last(JobId(16, 0)).nodes == "None assigned"


def test_the_first_word_of_a_state_is_the_state_and_the_user_has_a_name():
    cancelled = parse_accounting(CAPTURED, name_of={0: "ada"}.__getitem__).last(JobId(12))
    assert (cancelled.state, cancelled.cancelled_by) == ("CANCELLED", "ada")


def test_a_user_whom_this_machine_does_not_know_keeps_his_number():
    assert user_name(0) == "root"
    assert user_name(3_987_654_321) == "3987654321"


def test_every_incarnation_of_a_requeued_job_is_there_and_the_newest_counts():
    rows = parse_accounting(CAPTURED)
    assert [row.state for row in rows.rows(JobId(13, 0))] == ["REQUEUED", "REQUEUED", "COMPLETED"]
    assert rows.last(JobId(13, 0)).seconds == ((24 + 2) * 60 + 3) * 60 + 4
    assert rows.last(JobId(13, 0)).nodes == "node[1-2,7]"


@pytest.mark.parametrize(
    "line", ["9|COMPLETED", "x|FAILED|1:0|1:0|00:01|n", "9|FAILED|1|1:0|00:01|n", "9|A|1:0|1:0|2h|n"]
)
def test_an_unreadable_row_is_shown_with_the_columns_that_were_asked_for(line):
    with pytest.raises(UnreadableAnswer, match=COLUMNS) as error:
        parse_accounting(line)
    assert line in str(error.value)


def test_all_jobs_are_asked_for_in_one_call_each_array_once(tmp_path):
    stand_in(tmp_path, "sacct", CAPTURED)
    rows = read_accounting([13, 9, 13, 9], environment=environment(tmp_path))
    assert rows.last(JobId(9)).state == "COMPLETED"
    assert called(tmp_path, "sacct") == [f"-X -P -n -D -j 9,13 -o {COLUMNS}"]


def test_no_jobs_are_no_call_and_very_many_fit_the_command_line(tmp_path):
    stand_in(tmp_path, "sacct")
    read_accounting([], environment=environment(tmp_path))
    assert called(tmp_path, "sacct") == []
    first = 2_000_000_000
    read_accounting(range(first, first + MASTERS_PER_CALL + 1), environment=environment(tmp_path))
    asked = [line.split()[5].split(",") for line in called(tmp_path, "sacct")]
    assert [len(ids) for ids in asked] == [MASTERS_PER_CALL, 1]
    assert asked[1] == [str(first + MASTERS_PER_CALL)]


def test_a_cluster_without_accounting_and_a_machine_without_sacct_are_found_out(tmp_path):
    missing = detect_accounting(environment={"PATH": str(tmp_path)})
    assert (missing.usable, missing.reason) == (False, "sacct: No such file or directory")
    stand_in(tmp_path, "sacct", said="Slurm accounting storage is disabled", code=1)
    disabled = detect_accounting(environment=environment(tmp_path))
    assert (disabled.usable, disabled.reason) == (False, "Slurm accounting storage is disabled")
    stand_in(tmp_path, "sacct")
    assert detect_accounting(environment=environment(tmp_path)).usable


def test_a_database_that_is_down_is_not_taken_for_an_empty_one(tmp_path):
    said = "sacct: error: Problem talking to the database: Connection refused"
    stand_in(tmp_path, "sacct", said=said, code=1)
    with pytest.raises(SchedulerUnreachable, match="Problem talking to the database"):
        read_accounting([9], environment=environment(tmp_path))
