"""Teams of processes on the CPU: forked ones for a function, and whole runs with their workers."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmark.operation import Operation
from benchmark.plan import plan
from benchmark.runfolder import RunFolder
from benchmark.store import Store
from benchmark.study import study_from_flags
from benchmark.team import ALONE, Team
from benchmark.team.meeting import Meeting
from benchmark.team.together import Together
from benchmark.worker import work

CPU = torch.device("cpu")


def in_team(folder: Path, body: Callable[[Team], Any], size: int = 2) -> list[Any]:
    """What `body` returns in each of `size` forked processes that are a team; raises with the traceback of one that
    failed. A team of one is this process."""
    if size == 1:
        return [body(ALONE)]
    folder.mkdir(parents=True, exist_ok=True)
    address = folder / "address"

    def member(rank: int) -> None:
        if rank == 0:
            meeting = Meeting()
            address.with_suffix(".new").write_text(meeting.address)
            address.with_suffix(".new").rename(address)
            store = meeting.store
        else:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            wait_for(address.exists)
            store = Meeting.joined(address.read_text(), rank)
        team = Together(rank, size, CPU, store)
        torch.save(body(team), folder / f"{rank}.pt")
        team.part()

    pids = [forked(lambda rank=rank: member(rank), folder / f"{rank}.txt") for rank in range(size)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * size, "\n".join((folder / f"{rank}.txt").read_text() for rank in range(size))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def forked(body: Callable[[], Any], output: Path) -> int:
    """The number of a process that runs `body` and prints to `output`; its exit status is what `body` returns."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        torch.set_num_threads(1)
        code = body() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain"
        time.sleep(0.01)
    return value


def run_of(root: Path, devices: int, method: str = "map", **settings: Any) -> RunFolder:
    """A run of the method on digits and a small perceptron, ready for its worker."""
    entries = {"tasks": ["digits"], "networks": ["mlp-16"], "methods": [{method: settings}], "seeds": 1}
    spec = next(iter(plan(study_from_flags(entries)).specs.values()))
    run = Store(root).folder(spec.id)
    run.create(spec)
    operation = Operation(device="cpu", devices=devices, latency="off", grace_seconds=20)
    operation.hand_over(run)
    return run


def worker_of(run: RunFolder, output: Path) -> int:
    """The number of a process that is the run's worker."""

    def body() -> int:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return work(str(run.path))

    return forked(body, output)


def ended(pid: int, seconds: float = 60.0) -> int:
    """The exit status of a process, waited for; it is killed when it takes longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"process {pid} did not end within {seconds:.0f} s")


def members_of(run: RunFolder) -> list[int]:
    """Processes that train the run beside the first."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"benchmark.team" in words and str(run.path).encode() in words:
            found.append(int(entry.name))
    return found
