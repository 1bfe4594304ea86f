"""A member of a team other than the first.

python -m benchmark.team RUN_FOLDER RANK SIZE HOST:PORT       as the leader starts it
torchrun --nproc-per-node SIZE -m benchmark.team RUN_FOLDER   starts all members, the first as the run's worker
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from benchmark.runfolder import RunFolder


def main(arguments: list[str]) -> int:
    """The exit status: 0 done, STOP_EXIT saved on request, 1 failed with the traceback in the output."""
    from benchmark.runfolder import RunFolder

    run = RunFolder(Path(arguments[0]).absolute())
    if len(arguments) == 1:
        return _of_torchrun(run)
    rank, size = int(arguments[1]), int(arguments[2])
    return _take_part(run, rank, size, arguments[3])


def _of_torchrun(run: RunFolder) -> int:
    from benchmark.errors import BenchError
    from benchmark.operation import Operation
    from benchmark.publish import check_fitted
    from benchmark.team.places import under_torchrun
    from benchmark.worker import work

    size = Operation.of(run).devices
    if not under_torchrun(size):
        raise SystemExit("usage: torchrun --nproc-per-node DEVICES -m benchmark.team RUN_FOLDER")
    rank = int(os.environ["RANK"])
    if rank == 0:
        return work(str(run.path))
    with suppress(OSError, BenchError):
        check_fitted(run)
        return 0  # the worker will find the same, and train nothing
    # torchrun asks all processes to stop. The worker saves then, for which it needs the others: they wait for its word.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        _leave(_take_part(run, rank, size, None))
    return abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _take_part(run: RunFolder, rank: int, size: int, address: str | None) -> int:
    """Join the team and run the method's fit. address: None where torchrun tells where the members meet."""
    from benchmark.child import device_of, enter_child
    from benchmark.errors import Interrupted
    from benchmark.operation import STOP_EXIT, Operation
    from benchmark.registry import load_plugin_file
    from benchmark.team.fitting import fit_along
    from benchmark.team.meeting import Meeting
    from benchmark.team.places import device_of_rank
    from benchmark.team.together import Together

    try:
        operation = Operation.of(run)
        threads = max(1, operation.threads // size)
        leader = int(os.environ.get("BNNBENCH_TEAM_LEADER", os.getppid()))
        enter_child(leader, None, operation.model_copy(update={"threads": threads}))
        for plugin in operation.plugins:
            load_plugin_file(plugin)
        device = device_of_rank(device_of(operation), rank, size)
        team = Together(rank, size, device, None if address is None else Meeting.joined(address, rank))
        fit_along(run, run.spec(), operation, device, team)
        team.part()
    except Interrupted:
        return STOP_EXIT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _leave(code: int) -> NoReturn:
    """Without destructors, which would wait for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
