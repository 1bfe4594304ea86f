"""How a run is executed: everything that must not change its number (and so is not part of its identity)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from benchmark.config import Config
from benchmark.errors import CorruptFile
from benchmark.files import read_json, write_json
from benchmark.runfolder import RunFolder

BUSY_EXIT = 3  # another process holds the run
STOP_EXIT = 75  # EX_TEMPFAIL: saved on request, to be continued


class Operation(Config):
    """Operational settings of one attempt; recorded in its `env.json`."""

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: the GPU if there is one")
    threads: int = Field(1, ge=1, description="CPU threads of one run; numbers on the CPU may differ in the last bits")
    micro_batch: int | None = Field(None, ge=1, description="cap on examples per forward pass while training")
    checkpoint_seconds: float = Field(60.0, ge=0, description="shortest time between two saved states")
    memory_limit_gib: float | None = Field(None, gt=0, description="the run fails as oom above it, not the machine")
    time_limit_seconds: float | None = Field(None, gt=0, description="save and stop after this long, status timeout")
    grace_seconds: float = Field(30.0, gt=0, description="time to save after a stop was asked for, then SIGKILL")
    latency: Literal["brief", "full", "off"] = Field(
        "brief", description="full: 50 timed calls per batch size; brief: as many of them as fit into 0.5 s, 3 at least"
    )
    plugins: tuple[str, ...] = Field((), description="plugin files to load, as given by --plugin")

    def hand_over(self, run: RunFolder) -> None:
        """Leave the settings where the worker of the next attempt finds them."""
        write_json(run.file("operation.json"), self.model_dump(mode="json"), durable=False)

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
