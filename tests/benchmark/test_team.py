"""Runs on several devices: what members exchange, and how the run ends when one of them does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
import torch
from teams import ended, in_team, members_of, run_of, wait_for, worker_of

from benchmark import Split, TensorInputs
from benchmark.data import Share
from benchmark.errors import BenchError, EnvironmentProblem
from benchmark.operation import STOP_EXIT
from benchmark.problem import decode_posterior
from benchmark.runfolder import RunFolder
from benchmark.team import Team
from benchmark.team.together import MembersDiffer
from benchmark.team.watch import Member, Watch
from benchmark.worker import describe

LONG = {"epochs": 4000, "accumulate": 2}


def outcome(run: RunFolder):
    return json.loads((run.attempts()[-1] / "outcome.json").read_text())


def weights(run: RunFolder):
    posterior = decode_posterior(run, run.spec(), torch.device("cpu"))
    return posterior.mean()


def stepping(run: RunFolder):
    """Whether the run's last attempt is in the middle of training."""
    return bool(run.attempts()) and (run.attempts()[-1] / "progress.json").exists()


# --- what members exchange ----------------------------------------------------------------------------------------


def test_sums_are_the_same_bits_for_all_members_whatever_the_shapes(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.team.together.BUCKET_BYTES", 64)

    def body(team: Team):
        tensors = [torch.full(shape, team.rank + 0.1) for shape in ((3, 5), (), (40,))] + [torch.ones(2).double()]
        layout = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
        team.add_up([*tensors, layout])
        return [*tensors, layout]

    members = in_team(tmp_path, body, 3)
    for found in members:
        assert all(torch.equal(a, b) for a, b in zip(found, members[0], strict=True))
    assert torch.allclose(members[0][0], torch.full((3, 5), 3.3))
    assert torch.equal(members[0][-1], 3 * torch.arange(24.0).view(1, 2, 3, 4))
    assert torch.equal(members[0][3], torch.full((2,), 3.0).double())


def test_the_first_member_decides_and_differences_are_refused(tmp_path):
    def body(team: Team):
        numbers = team.from_first(lambda: [team.rank + 0.1, 1e300], 2)
        flags = [team.first_says(team.rank == 0), team.first_says(team.rank == 1)]
        team.require_same("all of it", "alike")
        try:
            team.require_same("the number", str(team.rank))
        except MembersDiffer as error:
            return numbers, flags, str(error)
        return None

    for numbers, flags, message in in_team(tmp_path, body):
        assert numbers == [0.1, 1e300]
        assert flags == [True, False]
        assert "the number differs between the 2 devices" in message


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("skip", [0, 2])
def test_shares_put_together_are_the_batch(augmented, skip):
    def augment(inputs, generator):
        return inputs + torch.rand(inputs.shape, generator=generator)

    data = Split(torch.arange(41.0).view(41, 1, 1, 1), torch.arange(41), augment if augmented else None)

    def batches(share):
        return list(data.training_batches(14, torch.Generator().manual_seed(3), skip, share))

    shares = [Share(rank, 2, 4) for rank in range(2)]
    whole, halves = batches(None), [batches(share) for share in shares]
    for number, (inputs, labels) in enumerate(whole):
        assert torch.equal(torch.cat([half[number][0] for half in halves]), inputs)
        assert torch.equal(torch.cat([half[number][1] for half in halves]), labels)
        assert data.batch_length(14, number + skip) == len(labels)
        parts = [part for half in halves for part in half[number][1].tensor_split(2)]
        assert [len(part) for part in parts] == [len(part) for part in labels.tensor_split(4)]


def test_a_share_that_is_not_read_costs_nothing():
    read = []

    class Inputs(TensorInputs):
        def read_all(self, indices):
            read.extend(len(index) for index in indices)
            return super().read_all(indices)

    data = Split(Inputs(torch.zeros(40, 1, 1, 1)), torch.zeros(40, dtype=torch.int64))
    list(data.training_batches(20, torch.Generator(), 0, Share(1, 2, 2)))
    assert read == [10, 10]


# --- watching members ---------------------------------------------------------------------------------------------


def saying(command: str) -> Member:
    return Member(1, subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT))


@pytest.mark.parametrize(
    ("command", "kind", "status"),
    [
        ("echo last words; kill -9 $$", EnvironmentProblem, "failed"),
        ("echo last words; exit 3", BenchError, "failed"),
        ("echo last words: CUDA out of memory; exit 1", MemoryError, "oom"),
    ],
)
def test_a_leader_that_waits_for_the_dead_is_ended_with_the_member_s_last_words(monkeypatch, command, kind, status):
    monkeypatch.setattr("benchmark.team.watch.GRACE_SECONDS", 0.1)
    failures: list[BaseException] = []
    watch = Watch([saying(command)], failures.append)
    (failure,) = wait_for(lambda: failures, 10)
    watch.end()
    assert type(failure) is kind
    assert str(failure).startswith("rank 1 of this run, process ")
    assert "last words" in str(failure)
    assert describe(failure)["status"] == status
    assert describe(failure)["retriable"] == (kind is EnvironmentProblem)


@pytest.mark.parametrize("code", [0, STOP_EXIT])
def test_a_member_that_is_done_or_has_stopped_on_request_has_not_failed(code):
    watch = Watch([saying(f"exit {code}")], lambda error: None)
    watch.join(10)
    assert watch.failure(0) is None
    watch.end()


# --- runs ---------------------------------------------------------------------------------------------------------


def test_a_run_on_two_devices_that_is_stopped_and_resumed_is_the_run_on_one(tmp_path):
    settings = {"epochs": 4, "accumulate": 2}
    one, two = run_of(tmp_path / "one", 1, **settings), run_of(tmp_path / "two", 2, **settings)
    assert one.id == two.id
    assert ended(worker_of(one, tmp_path / "console.txt")) == 0, outcome(one)
    worker = worker_of(two, tmp_path / "console.txt")
    wait_for(lambda: stepping(two))
    os.kill(worker, signal.SIGTERM)
    assert ended(worker) == 1
    assert (outcome(two)["status"], outcome(two)["type"]) == ("killed", "Interrupted"), outcome(two)
    assert "saved" in outcome(two)["message"]
    assert not members_of(two)
    assert ended(worker_of(two, tmp_path / "console.txt")) == 0, outcome(two)
    a, b = weights(one), weights(two)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-5
    assert len(two.file("history.jsonl").read_text().splitlines()) == 4
    for run, devices in ((one, 1), (two, 2)):
        metrics = run.result()["metrics"]
        hours = metrics["train_seconds"]["value"] * devices / 3600
        assert metrics["device_hours"]["value"] == pytest.approx(hours)
        assert json.loads((run.attempts()[-1] / "env.json").read_text())["operation"]["devices"] == devices


def test_the_death_of_a_member_is_the_failure_of_the_run_and_names_it(tmp_path):
    run = run_of(tmp_path, 2, **LONG)
    worker = worker_of(run, tmp_path / "console.txt")
    wait_for(lambda: stepping(run))
    (member,) = members_of(run)
    begun = time.monotonic()
    os.kill(member, signal.SIGKILL)
    assert ended(worker, 20) == 1
    assert time.monotonic() - begun < 10
    found = outcome(run)
    assert found["status"] == "failed"
    assert found["message"].startswith(f"rank 1 of this run, process {member}, was killed by SIGKILL")
    assert not members_of(run)


def test_members_die_with_the_worker(tmp_path):
    run = run_of(tmp_path, 2, **LONG)
    worker = worker_of(run, tmp_path / "console.txt")
    wait_for(lambda: stepping(run))
    assert members_of(run)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    wait_for(lambda: not members_of(run), 10)


def test_a_method_that_trains_on_one_device_is_refused(tmp_path):
    run = run_of(tmp_path, 2, "mc_dropout")
    assert ended(worker_of(run, tmp_path / "console.txt")) == 1
    found = outcome(run)
    assert found["type"] == "ConfigError"
    assert "'mc_dropout' trains on one" in found["message"]
    assert "several: map." in found["message"]
