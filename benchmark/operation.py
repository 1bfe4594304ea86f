"""How a run is executed: everything that must not change its number (and so is not part of its identity)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from benchmark.config import Config
from benchmark.datasets import DATA_ROOT, data_root
from benchmark.environ import environment_of
from benchmark.errors import CorruptFile
from benchmark.files import read_json, write_json
from benchmark.runfolder import RunFolder

LOADERS = "BNNBENCH_LOADERS"
"""The environment variable that hands `loaders` to code that reads data."""
MOST_LOADERS = 16
"""Data loading processes of one run, unless the settings say otherwise."""
BUSY_EXIT = 3  # another process holds the run
STOP_EXIT = 75  # EX_TEMPFAIL: saved on request, to be continued


class Operation(Config):
    """Operational settings of one attempt; recorded in its `env.json`."""

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: the GPU if there is one")
    threads: int = Field(1, ge=1, description="CPU threads of one run; numbers on the CPU may differ in the last bits")
    devices: int = Field(
        1, ge=1, description="GPUs (or processes on the CPU) that train one run together; few methods can"
    )
    micro_batch: int | None = Field(None, ge=1, description="cap on examples per forward pass while training")
    checkpoint_seconds: float = Field(60.0, ge=0, description="shortest time between two saved states")
    memory_limit_gib: float | None = Field(None, gt=0, description="the run fails as oom above it, not the machine")
    time_limit_seconds: float | None = Field(None, gt=0, description="save and stop after this long, status timeout")
    grace_seconds: float = Field(30.0, gt=0, description="time to save after a stop was asked for, then SIGKILL")
    latency: Literal["brief", "full", "off"] = Field(
        "brief", description="full: 50 timed calls per batch size; brief: as many of them as fit into 0.5 s, 3 at least"
    )
    plugins: tuple[str, ...] = Field((), description="plugin files to load, as given by --plugin")
    loaders: int | None = Field(
        None, ge=0, description="processes of one run that read and decode files; default: a fair share of the cores"
    )
    data_root: str | None = Field(
        None, description="folder of all data sets; default: that of the run's last attempt, else the launcher's own"
    )

    def hand_over(self, run: RunFolder) -> None:
        """Leave the settings where the worker of the next attempt finds them, the data root as an absolute path: the
        worker may start in another folder, on another machine, without the launcher's environment."""
        settings = {**self.model_dump(mode="json"), "data_root": str(self.root_for(run))}
        write_json(run.file("operation.json"), settings, durable=False)

    def root_for(self, run: RunFolder) -> Path:
        """Where the run's next attempt reads data: as told, else as its last one, else as this process."""
        return Path(self.data_root or _handed_over_before(run) or data_root()).absolute()

    @contextmanager
    def in_environment(self) -> Iterator[None]:
        """The settings that code which reads data takes from the environment, for this process and its children."""
        loaders = None if self.loaders is None else str(self.loaders)
        with environment_of({DATA_ROOT: self.data_root, LOADERS: loaders}):
            yield

    @classmethod
    def of(cls, run: RunFolder) -> Operation:
        """What the launcher left in the run's folder; the defaults when it left nothing."""
        path = run.file("operation.json")
        try:
            return cls.model_validate(read_json(path))
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise CorruptFile(f"{path} does not hold operational settings: {error}") from error


def _handed_over_before(run: RunFolder) -> str | None:
    """The data root of the run's last attempt; None when there was none, or its settings cannot be read."""
    with suppress(OSError, CorruptFile):
        return Operation.of(run).data_root
    return None
