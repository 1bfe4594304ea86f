"""How fast a `fit` goes: samples of its progress, and what they say about the rest of it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmark.context import Context
from benchmark.contracts import NeededRun
from benchmark.identity import RunSpec

SAMPLES = 40
"""How often, at most, the progress of a probe is noted; the device is synchronised as often."""
Sample = tuple[float, int, int]
"""Seconds since `fit` began, done, total."""


class TimeIsUp(BaseException):
    """Ends a `fit`, past whatever errors it handles."""


class Refused(Exception):
    """No timing can be had; the text says why."""


class TimedContext(Context):
    """Notes how far `fit` is, and ends it when the time is up."""

    def __init__(
        self, folder: Path, spec: RunSpec, device: torch.device, needed: Sequence[NeededRun], seconds: float
    ) -> None:
        super().__init__(folder, spec.components, device=device, needed=needed, checkpoint_seconds=math.inf)
        self.samples: list[Sample] = []
        self._seconds, self._begun, self._next = seconds, 0.0, 0.0

    def begin(self) -> None:
        """The clock starts."""
        self._begun = time.monotonic()

    def progress(self, done: int, total: int, **metrics: float) -> None:
        if time.monotonic() - self._begun < self._next:
            return
        synchronise(self.device)  # a GPU is asked for work faster than it does it
        now = time.monotonic() - self._begun
        self.samples.append((now, done, total))
        self._next = now + self._seconds / SAMPLES
        if now >= self._seconds and done < total:
            raise TimeIsUp


def extrapolated(samples: Sequence[Sample], seconds: float) -> float:
    """Seconds of the whole `fit`, from how far it came: the time until the last sample, and the rest at the rate of the
    last half of the time (its beginning is slower: kernels are chosen, memory is found, files are cached).

    Raises:
        Refused: there is no rate that speaks for the rest.
    """
    if not samples:
        raise Refused(f"no progress was seen within {seconds:g} s; give it more time")
    last, done, total = samples[-1]
    if any(other != total for _, _, other in samples):
        raise Refused("its progress has several stages, of which the first says nothing about the others")
    if done >= total or last < seconds / 2:
        raise Refused(
            f"no progress was seen after {last:.3g} s ({done} of {total}), and `fit` went on; give it more time"
        )
    half = (samples[0][0] + last) / 2
    earlier, before, _ = [sample for sample in samples if sample[0] <= half][-1]
    if done <= before:
        raise Refused(f"too little progress was seen within {seconds:g} s ({done} of {total}); give it more time")
    return last + (total - done) * (last - earlier) / (done - before)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
