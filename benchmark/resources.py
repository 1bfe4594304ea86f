"""What runs ask of a cluster. Operational: no number depends on it, and it is not part of a run's identity."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from pydantic import Field

from benchmark.config import Config

if TYPE_CHECKING:
    from benchmark.identity import RunSpec

PATTERN_KEYS = ("task", "network", "method", "seed")


class Resources(Config):
    """What one run needs. Runs that ask for the same are of one class, and are submitted together.

    None: what the level above says. The levels: the launcher's profile, then the method, the task and the study, each
    over the ones before.
    """

    gpus: int | None = Field(None, ge=0, le=64, description="GPUs of one run")
    cpus: int | None = Field(None, ge=1, description="CPU cores of one run")
    memory_gib: float | None = Field(None, gt=0, description="main memory of one run, GiB")
    minutes: int | None = Field(None, ge=1, description="time limit of one job; an unfinished run goes on in the next")

    def over(self, below: Resources) -> Resources:
        """These, and where they say nothing what `below` says."""
        return Resources(**{**below.model_dump(), **self.model_dump(exclude_none=True)})

    def __str__(self) -> str:
        parts = {
            "gpus": f"{self.gpus} GPU{'' if self.gpus == 1 else 's'}",
            "cpus": f"{self.cpus} CPU{'' if self.cpus == 1 else 's'}",
            "memory_gib": f"{self.memory_gib or 0:g} GiB",
            "minutes": f"{self.minutes} min",
        }
        return ", ".join(text for name, text in parts.items() if getattr(self, name) is not None)


class Request(Resources):
    """An entry of a study's `resources`: what the runs that match its patterns ask for."""

    task: str = Field("*", description="name of a task, with * and ? if you like")
    network: str = Field("*", description="name of a network")
    method: str = Field("*", description="name of a method")
    seed: str = Field("*", coerce_numbers_to_str=True, description="a seed")

    def matches(self, spec: RunSpec) -> bool:
        """Whether it speaks of this run."""
        names = {
            "task": spec.task.name,
            "network": spec.network.name,
            "method": spec.method.name,
            "seed": str(spec.seed),
        }
        return all(fnmatch.fnmatchcase(name, getattr(self, key)) for key, name in names.items())

    @property
    def resources(self) -> Resources:
        """Without the patterns."""
        return Resources(**self.model_dump(exclude=set(PATTERN_KEYS)))
