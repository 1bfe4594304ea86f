"""The two kinds of lines of a journal: what is about to be submitted, and what it became."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slurm.commands import UnreadableAnswer
from slurm.jobs import JobId


@dataclass(frozen=True)
class Batch:
    """One call of sbatch: an array, or a plain job for a single element.

    elements: the runs of each element, in the order of the array's indices; several where short runs share a job.
    minutes: the time limit. sbatch: the hash of the text that is submitted.
    """

    number: int
    elements: tuple[tuple[str, ...], ...]
    resource_class: str
    minutes: int
    sbatch: str


@dataclass(frozen=True)
class JobRecord:
    """A run and the job it was submitted as. submitted: seconds since 1970, by the submitter's clock."""

    run: str
    job: JobId
    batch: int
    resource_class: str
    minutes: int
    submitted: float
    sbatch: str


@dataclass(frozen=True)
class JournalContent:
    """What a journal holds, oldest first. damaged: lines that could not be read, torn by a crash."""

    batches: tuple[Batch, ...] = ()
    jobs: tuple[JobRecord, ...] = ()
    damaged: int = 0

    @property
    def open_batch(self) -> Batch | None:
        """The last batch, when not all of its runs have a job: its submission was refused, or cut short."""
        if not self.batches:
            return None
        last = self.batches[-1]
        recorded = {record.run for record in self.jobs if record.batch == last.number}
        return last if any(run not in recorded for element in last.elements for run in element) else None


def records_of(batch: Batch, job: JobId, runs: Iterable[str], when: float) -> list[JobRecord]:
    """The records of one element of a batch."""
    return [JobRecord(run, job, batch.number, batch.resource_class, batch.minutes, when, batch.sbatch) for run in runs]


def line_of_batch(batch: Batch) -> dict[str, Any]:
    """A batch as it is written."""
    elements = [list(element) for element in batch.elements]
    return {
        "batch": batch.number,
        "elements": elements,
        "class": batch.resource_class,
        "minutes": batch.minutes,
        "sbatch": batch.sbatch,
    }


def line_of_job(record: JobRecord) -> dict[str, Any]:
    """A job as it is written."""
    return {
        "run": record.run,
        "job": str(record.job),
        "batch": record.batch,
        "class": record.resource_class,
        "minutes": record.minutes,
        "submitted": record.submitted,
        "sbatch": record.sbatch,
    }


def parse_line(text: bytes) -> Batch | JobRecord | None:
    """The entry in one line; None for a line that a crash tore."""
    try:
        return _entry_of(json.loads(text))
    except (ValueError, TypeError, LookupError, UnreadableAnswer):
        return None


def _entry_of(line: dict[str, Any]) -> Batch | JobRecord:
    shared = str(line["class"]), int(line["minutes"])
    if "elements" in line:
        elements = tuple(tuple(map(str, element)) for element in line["elements"])
        return Batch(int(line["batch"]), elements, *shared, str(line["sbatch"]))
    job = JobId.parse(str(line["job"]))
    return JobRecord(str(line["run"]), job, int(line["batch"]), *shared, float(line["submitted"]), str(line["sbatch"]))
