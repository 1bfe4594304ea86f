"""Time limits of jobs: whole minutes, made here.

Text such as `00:30:00` passes sbatch and then breaks the handler that submitit installs in the job, and YAML 1.1 reads
`10:00:00` as a number to base 60; so a limit with a colon is refused wherever it comes from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from benchmark import ConfigError

LEGAL = 'write 90 or "90m" for minutes, "6h" for hours'
SHORT_MINUTES = 5
SAVES_WORTH_A_JOB = 3
SHORTEST_MARGIN_SECONDS = 120

_TEXT = re.compile(r"(\d+)\s*([mh]?)", re.ASCII)


def parse_minutes(value: object) -> int:
    """Minutes from 90, "90", "90m" or "6h".

    Raises:
        ValueError: anything else, 0 and text with a colon among it; the text names the legal forms.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        minutes = value
    elif isinstance(value, str) and (found := _TEXT.fullmatch(value.strip())):
        minutes = int(found[1]) * (60 if found[2] == "h" else 1)
    elif isinstance(value, str) and ":" in value:
        raise ValueError(f"a time limit has no colon: {LEGAL}")
    else:
        raise ValueError(f"not a time limit in whole minutes: {LEGAL}")
    if minutes < 1:
        raise ValueError(f"a time limit is at least one minute: {LEGAL}")
    return minutes


def usual_seconds(past: Sequence[float]) -> float | None:
    """What 95 % of runs of this kind stay below: the 95th percentile by nearest rank, so the longest of fewer than 20.

    past: wall-clock seconds of finished runs. None when there are none.
    """
    return sorted(past)[math.ceil(0.95 * len(past)) - 1] if past else None


def minutes_for(seconds: float) -> int:
    """The time limit of a job whose work usually takes `seconds`: half as much again, and ten minutes to start in."""
    return math.ceil(1.5 * seconds / 60) + 10


def margin_seconds(minutes: int, longest_save: float = 0.0, wanted: int | None = None) -> int:
    """How long before its time limit a job begins to save.

    Two minutes or twice the longest save that was measured, at most a third of the limit; `wanted`, the profile's
    `margin_s`, replaces this.

    Raises:
        ConfigError: `wanted` leaves no time to work.
    """
    if wanted is None:
        return min(max(SHORTEST_MARGIN_SECONDS, math.ceil(2 * longest_save)), 60 * minutes // 3)
    if wanted >= 60 * minutes:
        raise ConfigError(
            f"margin_s = {wanted}: a job of {minutes} min would save from its start on.\n"
            f"  legal: 1 to {60 * minutes - 1}; leave it out for {margin_seconds(minutes, longest_save)}"
        )
    return wanted


def limit_warnings(minutes: int, margin: int, seconds_between_saves: float) -> list[str]:
    """What a user should know about a time limit before anything is submitted; nothing for a sensible one.

    margin: as of `margin_seconds`. seconds_between_saves: the longer of the checkpoint interval and of one save.
    """
    found = []
    if minutes < SHORT_MINUTES:
        found.append(
            f"time limit {minutes} min: Slurm looks at the clock once a minute, and a requeued job waits for more than "
            f"two. Below {SHORT_MINUTES} min most of a run's time is waiting; raise `minutes`."
        )
    work = 60 * minutes - margin
    if work < SAVES_WORTH_A_JOB * seconds_between_saves:
        found.append(
            f"time limit {minutes} min: {work} s are left to work in, {margin} s to save; that is less than "
            f"{SAVES_WORTH_A_JOB} saves, one each {seconds_between_saves:.3g} s. Raise `minutes`, or lower `margin_s` "
            "or `checkpoint_seconds`."
        )
    return found
