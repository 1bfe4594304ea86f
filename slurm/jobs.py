"""Job ids as Slurm writes them: `9` (a plain job), `9_0` (an array's element), `16_[0-3,7%2]` (several of them)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slurm.commands import UnreadableAnswer

_ONE = re.compile(r"(\d+)(?:_(\d+))?\Z", re.ASCII)
_SEVERAL = re.compile(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]\Z", re.ASCII)
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?\Z", re.ASCII)
MOST_ELEMENTS = 4_000_001
"""The highest MaxArraySize that Slurm allows."""


@dataclass(frozen=True, order=True)
class JobId:
    """`master` alone names a plain job, with `task` one element of an array."""

    master: int
    task: int | None = None

    def __str__(self) -> str:
        return str(self.master) if self.task is None else f"{self.master}_{self.task}"

    @property
    def key(self) -> tuple[int, int]:
        """What to look the job up by. An array of one element is submitted as a plain job: `9` and `9_0` are one."""
        return self.master, self.task or 0

    @classmethod
    def parse(cls, text: str) -> JobId:
        """The id of one job.

        Raises:
            UnreadableAnswer: the text is no id, or names several elements.
        """
        match = _ONE.match(text.strip())
        if match is None:
            raise UnreadableAnswer(f"'{text}' is not the id of one job. Slurm's ids look like 9 or 9_0.")
        master, task = match.groups()
        return cls(int(master), None if task is None else int(task))


def expand(text: str) -> tuple[JobId, ...]:
    """All jobs that one id of a listing stands for, in its order: `16_[0-3,7%2]` for five of them.

    Raises:
        UnreadableAnswer: the text is not an id.
    """
    match = _SEVERAL.match(text.strip())
    if match is None:
        return (JobId.parse(text),)
    master = int(match[1])
    return tuple(JobId(master, task) for part in match[2].split(",") for task in _range(part, text))


def _range(part: str, text: str) -> range:
    """`7`, `0-3` or `0-10:2`."""
    match = _RANGE.match(part)
    if match is not None:
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if first <= last < MOST_ELEMENTS and step > 0:
            return range(first, last + 1, step)
    raise UnreadableAnswer(f"'{part}' in the job id '{text}' is not a range of indices such as 7, 0-3 or 0-10:2.")
