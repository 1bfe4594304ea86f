"""One function called on many arguments by processes beside this one, results in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark import loader_processes

AHEAD = 2
"""Results per process that wait to be fetched."""

GRACE_SECONDS = 20
"""That a worker goes on after SIGTERM."""

_inherited: list[Any] = []
"""Loaders of a parent process, kept for ever: to collect one in a forked child would stop the parent's workers."""


class Workers:
    """`work`, called in processes that are forked when a pass begins and, after a complete pass, kept for the next.

    A pass that ends early stops its processes, and so does collecting this object. Processes never outlive the one
    that started them. Without loader processes, or for a single argument, the work is done here. pin: results are
    tensors, wanted in pinned memory. Copies and pickles start processes of their own.
    """

    def __init__(self, work: Callable[[Any], Any], *, pin: bool = False) -> None:
        self._work, self._pin = work, pin
        self._idle: _Pool | None = None

    def results(self, arguments: Sequence[Any]) -> Generator[Any, None, None]:
        """`work` of each argument in turn; started with the first `next`. Close it when it is left early."""
        processes = min(loader_processes(), len(arguments))
        if processes == 0 or len(arguments) == 1:
            yield from map(self._work, arguments)
            return
        pool = self._taken(processes)
        complete = False
        try:
            yield from pool.results(arguments)
            complete = True
        finally:
            if complete and self._idle is None:
                self._idle = pool
            else:
                pool.stop()

    def _taken(self, processes: int) -> _Pool:
        pool, self._idle = self._idle, None
        if pool is not None and pool.owner != os.getpid():
            _inherited.append(pool)
        elif pool is not None and pool.processes >= processes:
            return pool
        return _Pool(self._work, processes, self._pin)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": None}


class _Pool:
    """A loader whose processes persist; what they work on is exchanged between passes."""

    def __init__(self, work: Callable[[Any], Any], processes: int, pin: bool) -> None:
        self.owner, self.processes = os.getpid(), processes
        self._arguments = _Arguments()
        self._loader = DataLoader(
            _Calls(work),
            sampler=self._arguments,
            batch_size=None,
            num_workers=processes,
            collate_fn=_as_it_is,
            pin_memory=pin,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            worker_init_fn=_quiet,
            multiprocessing_context="fork",
            generator=torch.Generator(),  # else it draws a seed from the global one, by the number of processes
        )

    def results(self, arguments: Sequence[Any]) -> Iterator[Any]:
        self._arguments.items = arguments
        yield from self._loader

    def stop(self) -> None:
        """End the processes now. Without this they would live as long as a traceback that refers to the loader."""
        running = getattr(self._loader, "_iterator", None)
        if running is not None:
            running._shutdown_workers()


class _Calls(Dataset[Any]):
    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def __getitem__(self, argument: Any) -> Any:
        return self._work(argument)


class _Arguments(Sampler[Any]):
    items: Sequence[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def _as_it_is(result: Any) -> Any:
    return result


def _quiet(number: int) -> None:
    """A stop may be sent to the whole group: the process that trains saves its state first, and needs its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
