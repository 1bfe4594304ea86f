"""Member 0 of a team is the process of the fit itself: it starts the others, passes on what they say, and makes sure
that the death of one is the failure of the run and never a hang."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from benchmark.environ import environment_of
from benchmark.errors import BenchError, EnvironmentProblem
from benchmark.inputs import loader_processes
from benchmark.operation import LOADERS
from benchmark.team.meeting import Meeting
from benchmark.team.places import device_of_rank, under_torchrun
from benchmark.team.together import PATIENCE, ExchangeFailed, Together
from benchmark.team.watch import Member, Watch

START_SECONDS = 300.0
NOTICE_SECONDS = 3.0
PARTING_SECONDS = 60.0


@contextmanager
def led(
    folder: Path, size: int, device: torch.device, fail: Callable[[BaseException], None]
) -> Iterator[tuple[Together, torch.device]]:
    """A team of `size` for the run in `folder`, and this process's device; inside, the members work.

    The CPU threads and the loader processes of the run are divided among them. fail: called from another thread when
    a member has died and this process does not come back from waiting for it; must record the failure and end it.

    Raises:
        EnvironmentProblem: too few GPUs; a member was killed, or hangs.
        MemoryError: a member ran out of memory. BenchError: a member failed. All name the rank and its last lines.
    """
    own = device_of_rank(device, 0, size)
    with _divided(size):
        meeting = None if under_torchrun(size) else Meeting()
        ranks = range(1, size) if meeting is not None else ()
        watch = Watch([_started(folder, rank, size, meeting) for rank in ranks if meeting is not None], fail)
        try:
            if meeting is not None:
                _await_arrival(meeting, watch)
            team = Together(0, size, own, None if meeting is None else meeting.store)
            yield team, own
            watch.expect_end()
            team.part()
            watch.join(PARTING_SECONDS)
        except (RuntimeError, ExchangeFailed) as error:
            if not _of_exchange(error):
                raise
            found = watch.failure(NOTICE_SECONDS) or _hanging(error, watch)
            if found is None:
                raise
            raise found from error
        finally:
            watch.end()


def _of_exchange(error: BaseException) -> bool:
    """Whether the error may come of another member's death; that of a GPU's exchange may show wherever this process
    next waits for the GPU."""
    return isinstance(error, ExchangeFailed | dist.DistError) or "NCCL" in str(error)


def _started(folder: Path, rank: int, size: int, meeting: Meeting) -> Member:
    """A fresh interpreter: CUDA does not survive a fork."""
    words = [sys.executable, "-P", "-u", "-m", "benchmark.team", str(folder), str(rank), str(size), meeting.address]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, "BNNBENCH_TEAM_LEADER": str(os.getpid())}
    process = subprocess.Popen(
        words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return Member(rank, process)


def _await_arrival(meeting: Meeting, watch: Watch) -> None:
    """Until every member has come as far as to the meeting place; a store would wait for the dead, too."""
    deadline = time.monotonic() + START_SECONDS
    while not meeting.all_here([member.rank for member in watch.members]):
        if (failure := watch.failure(0)) is not None:
            raise failure
        if time.monotonic() > deadline:
            raise EnvironmentProblem(
                f"the other devices of this run did not start within {START_SECONDS:g} s.\n{watch.last_lines()}"
            )
        time.sleep(0.02)


def _hanging(error: BaseException, watch: Watch) -> BenchError | None:
    """What an exchange that failed without a death is: somebody waited in vain, or the connection broke."""
    if not isinstance(error, ExchangeFailed):
        return None
    minutes = PATIENCE.total_seconds() / 60
    return EnvironmentProblem(
        f"{error}\n  A device waits {minutes:g} minutes for the others, then gives up. All processes of the run are "
        f"alive; what they said last:\n{watch.last_lines()}"
    )


@contextmanager
def _divided(size: int) -> Iterator[None]:
    """A fair part of the threads and loaders of this run for this process, and by inheritance for the others."""
    threads, total = torch.get_num_threads(), loader_processes()
    torch.set_num_threads(max(1, threads // size))
    try:
        with environment_of({LOADERS: str(total if total == 0 else max(1, total // size))}):
            yield
    finally:
        torch.set_num_threads(threads)
