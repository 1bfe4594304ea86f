"""The journal of a launch: which run was submitted as which job. `results/launches/<launch id>/jobs.jsonl`.

Two kinds of lines, each a JSON object. A `batch` is written before sbatch is called: what is about to be submitted. A
`job` is written after it answered: one per run. So of a launcher that dies in between, the last batch is without jobs;
jobs of the launch's name that are in the queue are its elements, in order (`unrecorded_jobs`).

Appending is one write and an fsync. A line that a crash tore costs itself and no other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import EnvironmentProblem
from slurm.jobs import JobId
from slurm.journal_lines import Batch, JobRecord, JournalContent, line_of_batch, line_of_job, parse_line, records_of
from slurm.queue import JOB_PREFIX, Queue

LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Journal:
    """The journal in one launch's folder. Several processes may append at once."""

    launch: Path

    @classmethod
    def create(cls, results: Path) -> Journal:
        """The journal of a new launch, its folder made below `results/launches`.

        Raises:
            EnvironmentProblem: the folder cannot be made.
        """
        launch = results / "launches" / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        try:
            launch.mkdir(parents=True)
        except OSError as error:
            raise EnvironmentProblem(f"{launch} cannot be created ({error.strerror}). Choose --results.") from error
        return cls(launch)

    @property
    def path(self) -> Path:
        return self.launch / "jobs.jsonl"

    @property
    def job_name(self) -> str:
        """The name of all jobs of the launch in the queue."""
        return JOB_PREFIX + self.launch.name

    def announce(self, batch: Batch) -> None:
        """Write down what is about to be submitted. One batch at a time: the next only after `record` or a refusal.

        Raises:
            EnvironmentProblem: it cannot be written; do not submit.
        """
        self._append([line_of_batch(batch)], "Nothing of it was submitted.")

    def record(self, batch: Batch, jobs: Sequence[JobId], submitted: float | None = None) -> list[JobRecord]:
        """Write down the jobs that a batch became, in the order of its elements; returns the records, on disk.

        submitted: seconds since 1970; now, unless given.

        Raises:
            EnvironmentProblem: they cannot be written. The jobs exist, and are found by name.
        """
        when = time.time() if submitted is None else submitted
        records = [
            record
            for job, runs in zip(jobs, batch.elements, strict=True)
            for record in records_of(batch, job, runs, when)
        ]
        found = f"The jobs are submitted all the same; `squeue --name {self.job_name}` lists them."
        self._append([line_of_job(record) for record in records], found)
        return records

    def adopt(self, records: Sequence[JobRecord]) -> None:
        """Write down jobs that were found by name (`unrecorded_jobs`)."""
        if records:
            self._append([line_of_job(record) for record in records], "They are found by name again next time.")

    def read(self) -> JournalContent:
        """What is in the journal; nothing when it has not been begun. Lines that a crash tore are counted, not read."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return JournalContent()
        batches: list[Batch] = []
        jobs: list[JobRecord] = []
        damaged = 0
        for line in lines:
            if not line.strip():
                continue
            entry = parse_line(line)
            if entry is None:
                damaged += 1
            elif isinstance(entry, Batch):
                batches.append(entry)
            else:
                jobs.append(entry)
        return JournalContent(tuple(batches), tuple(jobs), damaged)

    def discard(self) -> bool:
        """Remove the launch's folder when no job was recorded (sbatch refused everything); whether that was done."""
        if self.read().jobs:
            return False
        shutil.rmtree(self.launch, ignore_errors=True)
        return True

    def _append(self, lines: Iterable[dict[str, Any]], otherwise: str) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                with _locked(descriptor):
                    _write_all(descriptor, _after_torn_line(descriptor) + text.encode())
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _sync_folder(self.launch)
        except OSError as error:
            raise EnvironmentProblem(f"{self.path} cannot be written ({error.strerror}). {otherwise}") from error


def journals(results: Path) -> list[Journal]:
    """The journals of all launches, oldest first."""
    try:
        names = sorted(entry.name for entry in os.scandir(results / "launches") if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Journal(results / "launches" / name) for name in names]


def by_run(records: Iterable[JobRecord]) -> dict[str, list[JobRecord]]:
    """The submissions of every run, oldest first."""
    submissions: dict[str, list[JobRecord]] = {}
    for record in sorted(records, key=lambda record: record.submitted):
        submissions.setdefault(record.run, []).append(record)
    return submissions


def unrecorded_jobs(journal: Journal, content: JournalContent, queue: Queue) -> list[JobRecord]:
    """Jobs of the launch that are in the queue and not in its journal: the launcher died between sbatch's answer and
    its journal line. Array's index and announced elements tell the runs; `submitted` is when the journal last grew.

    `content` is to be read after the queue: a job that is recorded meanwhile is not reported.
    """
    known = {record.job.key for record in content.jobs}
    found = [job.id for job in queue if job.name == journal.job_name and job.id.key not in known]
    if not found:
        return []
    batches = {batch.number: batch for batch in content.batches}
    of_array = {record.job.master: batches.get(record.batch) for record in content.jobs}
    open_batch, when = content.open_batch, journal.path.stat().st_mtime
    records: list[JobRecord] = []
    for job in sorted(found, key=lambda job: job.key):
        batch, index = of_array.get(job.master, open_batch), job.key[1]
        if batch is not None and index < len(batch.elements):
            records += records_of(batch, job, batch.elements[index], when)
    return records


def _after_torn_line(descriptor: int) -> bytes:
    """A line break, when the last writer died before its own."""
    size = os.fstat(descriptor).st_size
    return b"\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else b""


def _sync_folder(folder: Path) -> None:
    """A new file is there after a crash once its folder is on disk; some file systems cannot say so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Exclusive use of the file: O_APPEND alone does not keep two machines apart. Best effort, as some file systems
    have no locks, and a stopped process must not stop others."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        except OSError:
            break
    yield  # closing the file unlocks it
