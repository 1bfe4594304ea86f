"""Queue, accounting and the requeue rule, read from a real Slurm."""

import os
import time
from collections.abc import Callable

import pytest

from slurm.accounting import ExitCode, detect_accounting, read_accounting
from slurm.cluster import Cluster
from slurm.commands import UnknownJob
from slurm.jobs import JobId
from slurm.queue import JOB_PREFIX, Queue, read_queue
from slurm.requeue import Received, requeue_if_due, show_job

NAME = JOB_PREFIX + "reading"


class Site:
    """A cluster, and the jobs that a test has submitted to it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.environment = {**os.environ, **cluster.environment}

    def submit(self, command: str, *options: str) -> JobId:
        given = ["--parsable", "--output", "/dev/null", "--chdir", "/tmp", "--job-name", NAME, *options]
        return JobId.parse(self.cluster.run("sbatch", *given, "--wrap", command).stdout)

    def queue(self) -> Queue:
        return read_queue(environment=self.environment)

    def wait(self, done: Callable[[], bool], seconds: float = 30) -> None:
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, list(self.queue())
            time.sleep(0.2)


@pytest.fixture
def site(slurm_cluster):
    there = Site(slurm_cluster)
    yield there
    there.cluster.run("scancel", "--name", NAME)
    there.wait(lambda: not any(job.name == NAME for job in there.queue()))


def test_held_jobs_arrays_and_arrays_of_one_are_found_in_the_queue(site):
    held = site.submit("true", "--hold", "--array", "0-3,7%2")
    one, plain = site.submit("true", "--hold", "--array", "0"), site.submit("true", "--hold")
    site.wait(lambda: all(site.queue().get(job) for job in (held, one, plain)))
    queue = site.queue()
    assert [queue.get(JobId(held.master, task)).reason for task in (0, 1, 2, 3, 7)] == ["JobHeldUser"] * 5
    assert queue.get(JobId(held.master, 4)) is None
    assert queue.get(one) == queue.get(JobId(one.master, 0))
    assert {job.name for job in (queue.get(one), queue.get(plain))} == {NAME}
    assert show_job(JobId(held.master, 7), site.environment).state == "PENDING"


def test_a_running_job_is_requeued_on_an_announcement_only_and_not_during_scancel(site):
    job, other = site.submit("srun sleep 100"), site.submit("trap '' TERM; srun sh -c \"trap '' TERM; sleep 100\"")
    site.wait(
        lambda: all(queued is not None and queued.state == "RUNNING" for queued in map(site.queue().get, (job, other)))
    )
    assert requeue_if_due(Received(term=True), job, site.environment) == "stay"
    assert requeue_if_due(Received(user_signal=True), job, site.environment) == "requeue"
    site.wait(lambda: (queued := site.queue().get(job)) is not None and queued.reason == "BeginTime")
    site.cluster.run("scancel", str(other))
    assert requeue_if_due(Received(user_signal=True, term=True), other, site.environment) == "leave"
    site.wait(lambda: site.queue().get(other) is None)


def test_a_job_that_never_was_is_unknown_and_not_unreachable(site):
    with pytest.raises(UnknownJob):
        show_job(JobId(99_999), site.environment)


@pytest.mark.parametrize("slurm_cluster", [True], indirect=True)
def test_accounting_tells_ways_to_end_apart(site):
    assert detect_accounting(environment=site.environment).usable
    fine, exit_9 = site.submit("true"), site.submit("srun sh -c 'exit 9'")
    killed, cancelled = site.submit("srun sh -c 'kill -9 $$'"), site.submit("true", "--hold")
    site.cluster.run("scancel", str(cancelled))
    jobs = (fine, exit_9, killed, cancelled)

    def rows():
        accounting = read_accounting([job.master for job in jobs], environment=site.environment)
        return [accounting.last(job) for job in jobs]

    site.wait(lambda: all(row is not None and row.state not in ("PENDING", "RUNNING") for row in rows()))
    found = rows()
    assert [row.state for row in found] == ["COMPLETED", "FAILED", "FAILED", "CANCELLED"]
    assert [row.exit_code for row in found[:3]] == [ExitCode(0), ExitCode(9), ExitCode(9)]
    assert [row.derived for row in found[:3]] == [ExitCode(0), ExitCode(9), ExitCode(0, 9)]
    assert found[3].cancelled_by == "root"


@pytest.mark.parametrize("slurm_cluster", [False], indirect=True)
def test_a_cluster_without_accounting_says_so(site):
    support = detect_accounting(environment=site.environment)
    assert (support.usable, support.reason) == (False, "Slurm accounting storage is disabled")
