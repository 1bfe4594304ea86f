"""The process of a probe: stand-ins for the needed runs, the real `fit` for a while, a few predictions."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmark.child import device_of, enter_child
from benchmark.compression import BitReader, BitWriter
from benchmark.context import Context
from benchmark.contracts import NeededRun, Posterior, Problem
from benchmark.cost import device_name
from benchmark.data import Split
from benchmark.evaluation import draws_generator
from benchmark.files import write_json
from benchmark.identity import Protocol, RunSpec
from benchmark.predict import BATCH_SIZE, effective_draws, predict
from benchmark.probe import RECORD, STAGE, Probe
from benchmark.probe.rate import Refused, TimedContext, TimeIsUp, extrapolated, synchronise
from benchmark.problem import method_of, needed_runs, network_of, problem_of, task_of
from benchmark.runfolder import RunFolder
from benchmark.seeds import seed_from
from benchmark.worker import describe

STAND_IN_EXAMPLES = 256
STAND_IN_BUDGET = 1e-9
"""So small that every training length becomes its shortest: one epoch."""


def measure(wanted: Probe, folder: Path, parent: int) -> None:
    """The child's life: leaves `measured.json` in `folder`: device, cpu, fit, predict, complete; or refused."""
    log = open(folder / "log.txt", "w", encoding="utf-8", errors="replace")  # noqa: SIM115 - lives as long as the process
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    try:
        enter_child(parent, None, wanted.operation)
        signal.signal(signal.SIGALRM, _alarm)
        with wanted.operation.in_environment():
            record = _Measurement(wanted, folder, device_of(wanted.operation)).record()
    except Refused as reason:
        record = {"refused": str(reason)}
    except BaseException as error:
        found = describe(error)
        record = {"refused": f"{found['type']}: {str(found['message']).splitlines()[0]}"}
    write_json(folder / RECORD, record, durable=False)


class _Measurement:
    def __init__(self, wanted: Probe, folder: Path, device: torch.device) -> None:
        self._wanted, self._folder, self._device = wanted, folder, device
        self._stand_ins: dict[str, NeededRun] = {}

    def record(self) -> dict[str, Any]:
        spec = self._wanted.spec
        needed = self._needed(spec)
        self._at("loading data")
        problem = problem_of(spec, needed, self._device)
        posterior, fit = self._fit(spec, problem, needed)
        on_cpu = self._device.type == "cpu"
        return {
            "device": device_name(self._device),
            "cpu": on_cpu,
            "fit": fit,
            "complete": posterior is not None,
            "predict": self._predict(spec, problem, posterior),
        }

    def _fit(self, spec: RunSpec, problem: Problem, needed: tuple[NeededRun, ...]) -> tuple[Posterior | None, float]:
        """The posterior and the seconds of a `fit` that came to its end in time; else None and the extrapolation."""
        self._at(f"fit of {spec.label}")
        ctx = TimedContext(self._folder / "fit", spec, self._device, needed, self._wanted.seconds)
        method, config = method_of(spec)
        begun = time.monotonic()
        try:
            ctx.begin()
            with _alarm_after(1.2 * self._wanted.seconds + 1.0):
                posterior = method.fit(problem, ctx, config)
                synchronise(self._device)
        except TimeIsUp:
            return None, extrapolated(ctx.samples, self._wanted.seconds)
        finally:
            ctx.close()
        return posterior, time.monotonic() - begun

    def _needed(self, spec: RunSpec) -> tuple[NeededRun, ...]:
        """What the run starts from: finished runs as they are, stand-ins for the others."""
        return tuple(self._needed_run(spec, need) for need in spec.needs)

    def _needed_run(self, spec: RunSpec, need: str) -> NeededRun:
        folder = RunFolder(self._wanted.runs / need)
        if folder.state().name == "ok":
            return needed_runs(folder, replace(spec, needs=(need,)), self._device)[0]
        if need not in self._stand_ins:
            self._stand_ins[need] = self._stand_in(self._wanted.specs[need])
        return self._stand_ins[need]

    def _stand_in(self, spec: RunSpec) -> NeededRun:
        """The method on a very small problem, its posterior decoded from bytes as that of a real run is.

        Raises:
            Refused: it does not work there, or takes too long.
        """
        method, config = method_of(spec)
        needed = self._needed(spec)
        self._at(f"stand-in of {spec.label}")
        folder = Path(tempfile.mkdtemp(prefix="stand-in-", dir=self._folder))
        try:
            problem = _very_small(problem_of(spec, needed, self._device))
            ctx = _context(folder, spec, self._device, needed)
            with _alarm_after(max(self._wanted.seconds, 10.0)), contextlib.closing(ctx):
                posterior = method.fit(problem, ctx, config)
                writer = BitWriter()
                posterior.encode(writer)
            network = network_of(spec, seed_from("architecture"), self._device)
            decoded = method.posterior_type().decode(BitReader(writer.finish()), network)
        except TimeIsUp as error:
            raise Refused(f"the stand-in for the needed {spec.label} took longer than this probe has") from error
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise Refused(f"no stand-in for the needed {spec.label}: {type(error).__name__}: {reason}") from error
        return NeededRun(spec.method.name, spec.method.config, posterior.facts(), decoded)

    def _predict(self, spec: RunSpec, problem: Problem, posterior: Posterior | None) -> float | None:
        """Seconds of all predictions but those of attacked examples; None when they cannot be measured."""
        try:
            if posterior is None:
                posterior = self._stand_in(spec).posterior
            self._at("predictions")
            sizes = predicted_sizes(spec)
            with _alarm_after(max(self._wanted.seconds, 10.0)):
                return prediction_seconds(spec, problem, posterior, sizes)
        except (TimeIsUp, Exception):  # the timing of `fit` stays what it is
            return None

    def _at(self, stage: str) -> None:
        (self._folder / STAGE).write_text(stage, encoding="utf-8")


def predicted_sizes(spec: RunSpec) -> list[int]:
    """Examples of every set that the run predicts: test and validation data, out of distribution, corrupted."""
    task, config = task_of(spec)
    info, shift = task.info(config), Protocol(**spec.protocol).shift
    sizes = [info.n_test, info.n_val, *(len(inputs) for inputs in task.ood(config).values())]
    corruptions = task.corruptions(config) if shift else ()
    if corruptions:
        sizes += [len(task.corrupted(config, corruptions[0], shift[0]))] * (len(corruptions) * len(shift))
    return sizes


def prediction_seconds(spec: RunSpec, problem: Problem, posterior: Posterior, sizes: Sequence[int]) -> float:
    """Of S draws over data sets of these sizes, from few draws over one and over two batches of training inputs: what
    a draw costs to make, and what a batch costs with it."""
    draws = effective_draws(posterior, problem.draws)
    few = effective_draws(posterior, min(draws, 3))

    def timed(split: Split) -> float:
        synchronise(split.device)
        begun = time.monotonic()
        predict(problem.network, posterior, split, few, draws_generator(spec))
        synchronise(split.device)
        return (time.monotonic() - begun) / few

    one, two = problem.train.first(BATCH_SIZE), problem.train.first(2 * BATCH_SIZE)
    timed(one)  # warm-up
    first = timed(one)
    batch = max(timed(two) - first, 0.0) if len(two) > len(one) else first
    batches = [math.ceil(size / BATCH_SIZE) for size in sizes if size > 0]
    return draws * sum(first + (number - 1) * batch for number in batches)


def _very_small(problem: Problem) -> Problem:
    val = None if problem.val is None else problem.val.first(STAND_IN_EXAMPLES)
    return replace(problem, train=problem.train.first(STAND_IN_EXAMPLES), val=val, budget=STAND_IN_BUDGET)


def _context(folder: Path, spec: RunSpec, device: torch.device, needed: Sequence[NeededRun]) -> Context:
    return Context(folder, spec.components, device=device, needed=needed, checkpoint_seconds=math.inf)


@contextlib.contextmanager
def _alarm_after(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp in the block when it takes longer, as soon as Python code runs again."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _alarm(*_: object) -> None:
    raise TimeIsUp
