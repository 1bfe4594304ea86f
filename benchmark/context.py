"""What the suite lends to a method during `fit`: device, seeds, checkpoints, history and the runs it needs."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.checkpoint import (
    restore_torch_global_state,
    torch_global_state,
)
from benchmark.contracts import Checkpoints, NeededRun
from benchmark.errors import Diverged
from benchmark.figures import remove_figures, write_figure
from benchmark.runfolder import FIGURES
from benchmark.seeds import seed_everything, seed_from
from benchmark.team import ALONE, Team
from benchmark.team.checkpoints import checkpoints_of

PROGRESS_SECONDS = 0.5
log = logging.getLogger("bnnbench")


class Context:
    """`RunContext` over a folder: `folder/checkpoint/`, `folder/history.jsonl` and `folder/figures/`.

    components: what seeds are hashed from, e.g. ("digits", "resnet20", "map", 0).
    lineage: needed run -> digest of its posterior; a checkpoint that started from others is passed over.
    checkpoint_seconds: shortest time between two saves; 0 saves at every offer.
    team: who trains the run; only its first member saves, logs, draws and tells.
    """

    def __init__(
        self,
        folder: Path,
        components: Sequence[str | int],
        *,
        device: torch.device | str = "cpu",
        needed: Sequence[NeededRun] = (),
        lineage: Mapping[str, str] | None = None,
        micro_batch: int | None = None,
        team: Team = ALONE,
        checkpoint_seconds: float = 60.0,
        stop_requested: Callable[[], bool] = lambda: False,
        before_save: Callable[[], None] = lambda: None,
        on_progress: Callable[[dict[str, float]], None] = lambda _: None,
    ) -> None:
        self.device = torch.device(device)
        self._lineage = dict(lineage or {})
        self.needed: Sequence[NeededRun] = tuple(needed)
        self.micro_batch = micro_batch
        self.team = team
        self._components = tuple(components)
        self._generators: dict[str, torch.Generator] = {}
        self._saved_generators: dict[str, torch.Tensor] = {}
        self._history = _History(folder / "history.jsonl")
        self._figures = folder / FIGURES
        self._figures_are_own = False
        self._before_save = before_save
        self._on_progress = on_progress
        self._next_progress = 0.0
        self.checkpoint: Checkpoints = checkpoints_of(
            team,
            folder / "checkpoint",
            seconds=checkpoint_seconds,
            wrap=self._wrap,
            unwrap=self._unwrap,
            stop_requested=stop_requested,
            before_save=before_save,
        )
        seed_everything(self.seed_for("global"))

    def seed_for(self, *parts: str | int) -> int:
        return seed_from(*self._components, *parts)

    def generator(self, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
        key = f"{purpose}@{torch.device(device).type}"
        if key not in self._generators:
            generator = torch.Generator(device=device)
            generator.manual_seed(self.seed_for(purpose))
            if key in self._saved_generators:
                generator.set_state(self._saved_generators[key])
            self._generators[key] = generator
        return self._generators[key]

    def progress(self, done: int, total: int, **metrics: float) -> None:
        now = time.monotonic()
        if self.team.rank == 0 and (now >= self._next_progress or done >= total):
            self._next_progress = now + PROGRESS_SECONDS
            self._on_progress({"done": done, "total": total, **metrics})

    def log(self, **values: float | int | str) -> None:
        if self.team.rank == 0:
            self._history.append(values)

    def figure(self, name: str, svg: str, caption: str, data: str | None = None) -> None:
        if self.team.rank > 0:
            return
        self._before_save()
        if not self._figures_are_own:  # as for the history: a fresh start replaces what an earlier attempt left
            remove_figures(self._figures)
            self._figures_are_own = True
        write_figure(self._figures, name, svg, caption, data)

    def close(self) -> None:
        """Flush and close the history."""
        self._history.close()

    def _wrap(self, state: dict[str, Any]) -> dict[str, Any]:
        return {
            "state": state,
            "lineage": self._lineage,
            "generators": {key: generator.get_state() for key, generator in self._generators.items()}
            | {key: saved for key, saved in self._saved_generators.items() if key not in self._generators},
            "torch": torch_global_state(self.device),
            "numpy": _numpy_state(),
            "python": _python_state(),
            "history_bytes": self._history.flush(),
        }

    def _unwrap(self, saved: dict[str, Any]) -> dict[str, Any] | None:
        if saved["lineage"] != self._lineage:
            log.warning("The saved state started from another posterior of a needed run; starting afresh.")
            return None
        self._saved_generators = saved["generators"]
        for key, generator in self._generators.items():
            if key in self._saved_generators:
                generator.set_state(self._saved_generators[key])
        restore_torch_global_state(saved["torch"], self.device)
        np.random.set_state(_numpy_from(saved["numpy"]))  # noqa: NPY002
        random.setstate(_python_from(saved["python"]))
        self._history.rewind(saved["history_bytes"])
        self._figures_are_own = True
        state: dict[str, Any] = saved["state"]
        return state


class _History:
    """JSON lines, opened at the first record; a fresh start truncates what an earlier attempt left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = 0
        self._handle: Any = None

    def append(self, values: dict[str, Any]) -> None:
        if self._handle is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open(self._path, "ab")  # noqa: SIM115 - lives as long as the run
            self._handle.truncate(self._start)
        self._handle.write(json.dumps({k: _json_safe(v) for k, v in values.items()}).encode() + b"\n")

    def flush(self) -> int:
        """Write through to disk; the size in bytes."""
        if self._handle is None:
            return self._start
        self._handle.flush()
        os.fsync(self._handle.fileno())  # a checkpoint must not survive a power cut that the history does not
        return os.fstat(self._handle.fileno()).st_size

    def rewind(self, size: int) -> None:
        self.close()
        self._start = size
        self._handle = None

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()


def _json_safe(value: Any) -> Any:
    """JSON has no NaN: a non-finite number is written as text so that a diverging history stays readable."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def require_finite(value: float, what: str, advice: str) -> None:
    """Raise Diverged when `value` is NaN or infinite; `advice` says what to change."""
    if not np.isfinite(value):
        raise Diverged(f"{what} is {value}. {advice}")


def _numpy_state() -> list[Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return [
        str(name),
        torch.from_numpy(np.asarray(keys).astype(np.int64)),
        int(position),
        int(has_gauss),
        float(cached),
    ]


def _numpy_from(saved: list[Any]) -> tuple[str, np.ndarray, int, int, float]:
    name, keys, position, has_gauss, cached = saved
    return name, keys.numpy().astype(np.uint32), position, has_gauss, cached


def _python_state() -> list[Any]:
    version, internal, gauss = random.getstate()
    return [version, list(internal), gauss]


def _python_from(saved: list[Any]) -> tuple[int, tuple[int, ...], float | None]:
    version, internal, gauss = saved
    return version, tuple(internal), gauss
