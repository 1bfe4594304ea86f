"""What a worker does after its checkpoint is on disk."""

import time

import pytest
from scheduler_commands import called, environment, stand_in

from slurm.commands import SchedulerUnreachable, UnreadableAnswer
from slurm.jobs import JobId
from slurm.requeue import JobDetails, Received, decide, own_job, parse_job, requeue_if_due, show_job, spent

LINE = (
    "JobId={number} {array}JobName=bnnbench-20260302-095959-a1b2c3 UserId=root(0) GroupId=root(0) MCS_label=N/A "
    "Priority=4294901759 Nice=0 Account=(null) QOS=(null) JobState={state} Reason=None Dependency=(null) Requeue=1 "
    "Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:01 TimeLimit=00:01:00 TimeMin=N/A "
    "SubmitTime=2026-03-02T10:00:00 EligibleTime=2026-03-02T10:00:00 AccrueTime=Unknown StartTime=2026-03-02T10:00:01 "
    "EndTime=Unknown Deadline=N/A PreemptEligibleTime=2026-03-02T10:00:01 PreemptTime={preempt} SuspendTime=None "
    "SecsPreSuspend=0 LastSchedEval=2026-03-02T10:00:01 Scheduler=Main Partition=low AllocNode:Sid=localhost:31217 "
    "ReqNodeList=(null) ExcNodeList=(null) NodeList=node1 BatchHost=node1 NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 "
    "ReqB:S:C:T=0:0:*:* TRES=cpu=1,node=1,billing=1 Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=* Command=(null) "
    "WorkDir=/study StdErr=/dev/null StdIn=/dev/null StdOut=/dev/null Power= \n"
)
PREEMPTED_AT = "2026-03-02T10:00:20"


def shown(state: str = "RUNNING", preempt: str = "None", number: int = 9, array: str = "") -> str:
    return LINE.format(state=state, preempt=preempt, number=number, array=array)


USR2 = Received(user_signal=True)
TERM = Received(term=True)
BOTH = Received(user_signal=True, term=True)
DEADLINE = Received(deadline=True)
CANCEL = Received(term=True, cancelled=True)


@pytest.mark.parametrize(
    ("received", "state", "preempt", "decision"),
    [
        pytest.param(USR2, "RUNNING", "None", "requeue", id="time limit announced"),
        pytest.param(DEADLINE, "RUNNING", "None", "requeue", id="own deadline, no signal came"),
        pytest.param(USR2, "RUNNING", PREEMPTED_AT, "requeue", id="preemption with the user's signal"),
        pytest.param(TERM, "RUNNING", PREEMPTED_AT, "requeue", id="preemption by TERM"),
        pytest.param(BOTH, "RUNNING", "None", "requeue", id="announced, then TERM"),
        pytest.param(TERM, "RUNNING", "None", "stay", id="TERM that nobody explains"),
        pytest.param(TERM, "COMPLETING", "None", "leave", id="scancel, or a node going down"),
        pytest.param(TERM, "CANCELLED", "None", "leave", id="scancel, already through"),
        pytest.param(BOTH, "COMPLETING", PREEMPTED_AT, "leave", id="scancel after an announcement"),
        pytest.param(DEADLINE, "CANCELLED", "None", "leave", id="scancel at the deadline"),
        pytest.param(USR2, "PENDING", "None", "stay", id="somebody has requeued it"),
        pytest.param(TERM, "TIMEOUT", "None", "stay", id="over its limit"),
        pytest.param(USR2, "SUSPENDED", "None", "stay", id="suspended"),
        pytest.param(CANCEL, "RUNNING", PREEMPTED_AT, "leave", id="cancelled by us"),
    ],
)
def test_the_rule_after_a_checkpoint(received, state, preempt, decision):
    assert decide(received, parse_job(shown(state, preempt), JobId(9))) == decision


@pytest.mark.parametrize(
    ("received", "decision"), [(USR2, "stay"), (TERM, "stay"), (DEADLINE, "stay"), (CANCEL, "leave")]
)
def test_without_an_answer_it_waits_for_the_kill(received, decision):
    assert decide(received, None) == decision


def test_time_of_preemption_is_read_and_its_absence_too():
    assert parse_job(shown(preempt=PREEMPTED_AT), JobId(9)) == JobDetails("RUNNING", PREEMPTED_AT)
    assert parse_job(shown(), JobId(9)) == JobDetails("RUNNING", None)
    assert parse_job("JobId=9 JobState=RUNNING\n", JobId(9)) == JobDetails("RUNNING", None)


def test_of_a_whole_array_the_line_of_the_element_is_taken():
    array = "ArrayJobId=16 ArrayTaskId={} ArrayTaskThrottle=2 "
    text = (
        shown("PENDING", number=16, array=array.format("4-10%2"))
        + shown("COMPLETING", number=17, array=array.format("0"))
        + shown("RUNNING", number=18, array=array.format("1"))
    )
    assert parse_job(text, JobId(16, 1)).state == "RUNNING"
    assert parse_job(text, JobId(16, 0)).state == "COMPLETING"
    assert parse_job(text, JobId(16, 7)).state == "PENDING"
    with pytest.raises(UnreadableAnswer, match="16_3"):
        parse_job(text, JobId(16, 3))


def test_an_element_is_asked_for_and_requeued_by_its_own_id(tmp_path):
    stand_in(tmp_path, "scontrol", shown(number=18, array="ArrayJobId=16 ArrayTaskId=1 "))
    assert requeue_if_due(USR2, JobId(16, 1), environment(tmp_path)) == "requeue"
    assert called(tmp_path, "scontrol") == ["show job -o 16_1", "requeue 16_1"]


@pytest.mark.parametrize(("received", "state", "decision"), [(TERM, "COMPLETING", "leave"), (TERM, "RUNNING", "stay")])
def test_a_job_that_must_not_rise_again_is_not_requeued(tmp_path, received, state, decision):
    stand_in(tmp_path, "scontrol", shown(state))
    assert requeue_if_due(received, JobId(9), environment(tmp_path)) == decision
    assert called(tmp_path, "scontrol") == ["show job -o 9"]


def test_a_run_that_we_cancel_leaves_without_asking(tmp_path):
    stand_in(tmp_path, "scontrol", shown())
    assert requeue_if_due(CANCEL, JobId(9), environment(tmp_path)) == "leave"
    assert called(tmp_path, "scontrol") == []


@pytest.mark.parametrize(
    "said", ["slurm_load_jobs error: Unable to contact slurm controller", "Invalid job id specified"]
)
def test_a_call_that_fails_is_no_reason_to_do_anything(tmp_path, said):
    stand_in(tmp_path, "scontrol", said=said, code=1)
    assert requeue_if_due(USR2, JobId(9), environment(tmp_path)) == "stay"
    assert called(tmp_path, "scontrol") == ["show job -o 9"]
    assert requeue_if_due(USR2, JobId(9), {"PATH": str(tmp_path / "nowhere")}) == "stay"


def test_a_requeue_that_is_refused_is_no_requeue(tmp_path):
    script = tmp_path / "scontrol"
    stand_in(tmp_path, "scontrol", shown())
    refusal = 'if [ "$1" = requeue ]; then echo "Job is disabled: Operation is disabled" >&2; exit 1; fi\n'
    script.write_text(script.read_text().replace("#!/bin/sh\n", "#!/bin/sh\n" + refusal))
    assert requeue_if_due(USR2, JobId(9), environment(tmp_path)) == "stay"


def test_a_controller_that_does_not_answer_costs_the_time_limit_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("slurm.requeue.SHOW_SECONDS", 0.3)
    stand_in(tmp_path, "scontrol", shown(), seconds=30)
    begun = time.monotonic()
    with pytest.raises(SchedulerUnreachable, match=r"0\.3 s"):
        show_job(JobId(9), environment(tmp_path))
    assert requeue_if_due(USR2, JobId(9), environment(tmp_path)) == "stay"
    assert time.monotonic() - begun < 10


def test_a_process_knows_its_job_and_its_element():
    element = {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "0"}
    assert own_job(element) == JobId(16, 0)
    assert own_job({"SLURM_JOB_ID": "9"}) == JobId(9)
    assert own_job({}) is None


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        ([], 0),
        ([5, 9, 14], 3),
        ([5, 5, 9], 5),
        ([None, None, None, None], 12),
        ([None, 3], 4),
        ([7, None], 4),
        ([9, 4], 4),
        ([0], 1),
    ],
)
def test_an_interruption_without_progress_counts_three(steps, counts):
    assert spent(steps) == counts
