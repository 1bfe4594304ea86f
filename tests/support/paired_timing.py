"""Cost of things beside each other, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from benchmark.allocator import keep_freed_memory


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes on `count` threads and freed memory is kept, as in every run: without that, page faults
    drown the difference that is to be shown."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ratios(calls: Mapping[str, Callable[[], object]], rounds: int) -> tuple[float, dict[str, float]]:
    """Median seconds of the first call, and name -> median over rounds of the ratio to it; printed, too.

    After one round of warm-up. Ratios are taken within a round and the order alternates, because a shared machine
    drifts by more than the few per cent that are to be shown.
    """
    seconds: list[dict[str, float]] = []
    for index in range(rounds + 1):
        times = {}
        for name in list(calls)[:: 1 if index % 2 else -1]:
            start = time.perf_counter()
            calls[name]()
            times[name] = time.perf_counter() - start
        seconds.append(times)
    first, *others = calls
    base = statistics.median(times[first] for times in seconds[1:])
    print(f"\n{first}: {1e3 * base:.1f} ms, {rounds} rounds")
    found = {}
    for name in others:
        each = [times[name] / times[first] for times in seconds[1:]]
        low, found[name], high = statistics.quantiles(each, n=4, method="inclusive")
        print(f"  {name}: {found[name]:.3f} x (quartiles {low:.3f} and {high:.3f})")
    return base, found


def interleaved(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """(median seconds of `first`, median ratio second/first); see `ratios`."""
    base, found = ratios({"first": first, "second": second}, rounds)
    return base, found["second"]
