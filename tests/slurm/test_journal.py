"""The journal of a launch: nothing that was written is lost, nothing that was submitted is forgotten."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from benchmark import EnvironmentProblem
from slurm.jobs import JobId
from slurm.journal import Journal, by_run, journals, unrecorded_jobs
from slurm.journal_lines import Batch
from slurm.queue import parse_queue

PAIR = Batch(0, (("run-a",), ("run-b",)), "cpu", 30, "abc")
PACKED = Batch(1, (("run-c", "run-d"), ("run-e",)), "cpu", 60, "def")
APPENDER = """
import sys
from pathlib import Path
from slurm.jobs import JobId
from slurm.journal import Journal
from slurm.journal_lines import Batch
journal, master, most = Journal(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(most):
    runs = tuple((f"run-{master}-{number}-{index}" + "x" * 300,) for index in range(20))
    journal.record(Batch(number, runs, "cpu", 30, "abc"), [JobId(master + number, index) for index in range(20)])
    print(number, flush=True)
"""


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal.create(tmp_path)


def in_queue(journal: Journal, *ids: str) -> str:
    return "".join(f"9|0|{id}|PENDING|Priority|N/A|{journal.job_name}\n" for id in ids)


def test_what_was_recorded_is_read_back_one_line_per_run(journal):
    journal.announce(PAIR)
    first = journal.record(PAIR, [JobId(9, 0), JobId(9, 1)], submitted=1000.5)
    journal.announce(PACKED)
    second = journal.record(PACKED, [JobId(10, 0), JobId(10, 1)])
    content = journal.read()
    assert content.batches == (PAIR, PACKED)
    assert list(content.jobs) == first + second
    assert [(record.run, str(record.job), record.minutes) for record in content.jobs] == [
        ("run-a", "9_0", 30), ("run-b", "9_1", 30), ("run-c", "10_0", 60), ("run-d", "10_0", 60), ("run-e", "10_1", 60)
    ]  # fmt: skip
    assert content.jobs[0].submitted == 1000.5
    assert abs(content.jobs[2].submitted - time.time()) < 60
    assert content.damaged == 0
    assert len(journal.path.read_text().splitlines()) == 2 + 5


def test_an_array_of_one_is_recorded_as_the_plain_job_that_it_became(journal):
    one = Batch(0, (("run-a",),), "cpu", 30, "abc")
    journal.record(one, [JobId(9)])
    assert json.loads(journal.path.read_text())["job"] == "9"
    assert journal.read().jobs[0].job == JobId(9)


def test_a_number_of_jobs_that_does_not_fit_the_batch_is_not_recorded(journal):
    with pytest.raises(ValueError, match="longer"):
        journal.record(PAIR, [JobId(9, 0)])
    assert journal.read().jobs == ()


def test_a_journal_cut_anywhere_in_its_last_line_loses_that_line_only(journal):
    journal.announce(PAIR)
    journal.record(PAIR, [JobId(9, 0), JobId(9, 1)], submitted=1.0)
    whole = journal.path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for end in range(last, len(whole) - 1):
        journal.path.write_bytes(whole[:end])
        content = journal.read()
        assert [record.run for record in content.jobs] == ["run-a"], end
        assert content.damaged == (end > last)
        journal.record(PACKED, [JobId(10, 0), JobId(10, 1)], submitted=2.0)
        assert [record.run for record in journal.read().jobs] == ["run-a", "run-c", "run-d", "run-e"], end


def test_lines_that_are_no_entries_are_counted_and_passed_over(journal):
    journal.record(PAIR, [JobId(9, 0), JobId(9, 1)])
    with journal.path.open("ab") as handle:
        handle.write(b'[]\n3\n"x"\n{"run": "a"}\n\xff\xfe\n\x00\x00\x00\n{"elements": 3, "class": "", "minutes": 1}\n')
    journal.adopt(journal.read().jobs[:1])
    content = journal.read()
    assert [record.run for record in content.jobs] == ["run-a", "run-b", "run-a"]
    assert content.damaged == 7


def test_a_launcher_killed_while_it_appends_loses_at_most_the_line_it_was_at(journal):
    for master in (1000, 2000, 3000):
        with appender(journal, master, 10**6) as process:
            acknowledged = -1
            until = time.monotonic() + 0.25
            while time.monotonic() < until:
                acknowledged = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        assert acknowledged > 0
        content = journal.read()
        there = {str(record.job) for record in content.jobs}
        assert {f"{master + n}_{i}" for n in range(acknowledged + 1) for i in range(20)} <= there
        assert content.damaged <= master // 1000
    assert Journal(journal.launch).read().jobs[0].job == JobId(1000, 0)


def test_two_processes_that_append_at_once_lose_nothing(journal):
    with appender(journal, 10_000, 200) as one, appender(journal, 20_000, 200) as other:
        assert one.wait(60) == other.wait(60) == 0
    content = journal.read()
    wanted = {f"{master + n}_{i}" for master in (10_000, 20_000) for n in range(200) for i in range(20)}
    assert {str(record.job) for record in content.jobs} == wanted
    assert len(content.jobs) == len(wanted)
    assert content.damaged == 0
    owners = [record.job.master // 10_000 for record in content.jobs]
    assert any(a > b for a, b in pairwise(owners)), "they did not append at the same time"


def test_jobs_whose_launcher_died_before_its_line_are_found_by_name(journal):
    journal.announce(PAIR)
    journal.record(PAIR, [JobId(9, 0), JobId(9, 1)])
    journal.announce(PACKED)
    foreign = "11|0|11_0|RUNNING|None|N/A|bnnbench-another\n12|0|12_0|RUNNING|None|N/A|something else\n"
    queue = parse_queue(in_queue(journal, "9_1", "10_[0-1]") + foreign)
    found = unrecorded_jobs(journal, journal.read(), queue)
    assert [(record.run, str(record.job), record.resource_class, record.minutes) for record in found] == [
        ("run-c", "10_0", "cpu", 60), ("run-d", "10_0", "cpu", 60), ("run-e", "10_1", "cpu", 60)
    ]  # fmt: skip
    journal.adopt(found)
    assert unrecorded_jobs(journal, journal.read(), queue) == []


def test_jobs_of_a_torn_line_belong_to_the_batch_of_their_array_whatever_came_later(journal):
    journal.announce(PAIR)
    journal.record(PAIR, [JobId(9, 0), JobId(9, 1)])
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    journal.announce(PACKED)
    found = unrecorded_jobs(journal, journal.read(), parse_queue(in_queue(journal, "9_0", "9_1", "10_1")))
    assert [(record.run, str(record.job)) for record in found] == [("run-b", "9_1"), ("run-e", "10_1")]


def test_a_plain_job_without_its_line_is_the_only_element(journal):
    journal.announce(Batch(0, (("run-a",),), "cpu", 30, "abc"))
    found = unrecorded_jobs(journal, journal.read(), parse_queue(in_queue(journal, "9")))
    assert [(record.run, str(record.job)) for record in found] == [("run-a", "9")]


def test_a_batch_that_became_nothing_claims_no_jobs(journal):
    journal.announce(PAIR)
    assert unrecorded_jobs(journal, journal.read(), parse_queue("")) == []
    assert journal.read().open_batch == PAIR
    journal.record(PAIR, [JobId(9, 0), JobId(9, 1)])
    assert journal.read().open_batch is None
    assert unrecorded_jobs(journal, journal.read(), parse_queue(in_queue(journal, "10_0"))) == []


def test_the_folder_of_a_launch_that_submitted_nothing_is_removed_and_others_are_kept(tmp_path):
    nothing, something = Journal.create(tmp_path), Journal.create(tmp_path)
    nothing.announce(PAIR)
    (nothing.launch / "orphan.pkl").touch()
    something.record(PAIR, [JobId(9, 0), JobId(9, 1)])
    assert nothing.discard()
    assert not something.discard()
    assert journals(tmp_path) == [something]


def test_launches_have_names_of_their_own_and_no_results_are_no_launches(tmp_path):
    assert journals(tmp_path / "none") == []
    made = [Journal.create(tmp_path) for _ in range(3)]
    assert len({journal.job_name for journal in made}) == 3
    assert set(journals(tmp_path)) == set(made)
    assert made[0].read().jobs == ()


def test_submissions_of_a_run_are_listed_oldest_first(tmp_path):
    later, earlier = Journal.create(tmp_path), Journal.create(tmp_path)
    later.record(PAIR, [JobId(12, 0), JobId(12, 1)], submitted=200.0)
    earlier.record(PAIR, [JobId(9, 0), JobId(9, 1)], submitted=100.0)
    submissions = by_run(record for journal in journals(tmp_path) for record in journal.read().jobs)
    assert [str(record.job) for record in submissions["run-b"]] == ["9_1", "12_1"]


def test_a_journal_that_cannot_be_written_names_itself_and_how_its_jobs_are_found(journal):
    journal.path.mkdir()
    with pytest.raises(EnvironmentProblem, match=f"squeue --name {journal.job_name}"):
        journal.record(PAIR, [JobId(9, 0), JobId(9, 1)])
    with pytest.raises(EnvironmentProblem, match="Nothing of it was submitted"):
        journal.announce(PAIR)


def test_a_full_disk_is_an_error_that_says_so():
    full = Path("/dev/full")
    if not full.exists() or not stat.S_ISCHR(full.stat().st_mode):
        pytest.skip("no /dev/full here")

    class OnFullDisk(Journal):
        @property
        def path(self) -> Path:
            return full

    with pytest.raises(EnvironmentProblem, match="No space left"):
        OnFullDisk(Path("/dev")).record(PAIR, [JobId(9, 0), JobId(9, 1)])


@pytest.mark.benchmarks
def test_ten_thousand_jobs_are_recorded_and_read_within_a_second(journal):
    batches = [
        Batch(n, tuple((f"digits.resnet20.map.s{n}-{i:012d}",) for i in range(1000)), "cpu", 30, "a" * 64)
        for n in range(10)
    ]
    begun = time.perf_counter()
    for batch in batches:
        journal.announce(batch)
        journal.record(batch, [JobId(100 + batch.number, index) for index in range(1000)])
    written = time.perf_counter()
    content = journal.read()
    read = time.perf_counter()
    queue = parse_queue(in_queue(journal, *(f"{100 + n}_{i}" for n in range(10) for i in range(1000))))
    parsed = time.perf_counter()
    assert unrecorded_jobs(journal, content, queue) == []
    assert len(by_run(content.jobs)) == 10_000
    end = time.perf_counter()
    print(f"\nwrite {written - begun:.3f} s, read {read - written:.3f} s, match {end - parsed:.3f} s")
    assert (read - begun) + (end - parsed) < 1


class appender:  # noqa: N801
    """A process that appends until it is killed, or `most` times; it starts when the block is entered."""

    def __init__(self, journal: Journal, master: int, most: int) -> None:
        command = [sys.executable, "-c", APPENDER, str(journal.launch), str(master), str(most)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self) -> subprocess.Popen:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
