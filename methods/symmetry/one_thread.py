"""Work on matrices that are so small that threads only slow it down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread of the CPU.

    Each operation ends with threads waiting for each other, which takes longer than a small operation itself, and a
    whole time slice where another process has one's core. A singular value decomposition of a 64 x 64 matrix is
    hundreds of such operations.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
