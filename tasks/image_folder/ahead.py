"""Copying to a device while it computes."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import torch
from torch import Tensor


def copied_ahead(batches: Iterator[Tensor], device: torch.device) -> Generator[Tensor, None, None]:
    """CPU batches on `device`. On CUDA the next one is on its way, on a stream of its own, while one is in use."""
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    aside = torch.cuda.Stream(device)
    waiting: tuple[Tensor, torch.cuda.Event] | None = None
    for batch in batches:
        coming = _start(batch, device, aside)
        if waiting is not None:
            yield _arrived(*waiting, device)
        waiting = coming
    if waiting is not None:
        yield _arrived(*waiting, device)


def _start(batch: Tensor, device: torch.device, aside: torch.cuda.Stream) -> tuple[Tensor, torch.cuda.Event]:
    pinned = batch if batch.is_pinned() else batch.pin_memory()
    with torch.cuda.stream(aside):
        return pinned.to(device, non_blocking=True), aside.record_event()


def _arrived(batch: Tensor, copied: torch.cuda.Event, device: torch.device) -> Tensor:
    """What is computed from now on waits for the copy; the host does not."""
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)
    batch.record_stream(current)
    return batch
