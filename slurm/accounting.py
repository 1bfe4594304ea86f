"""What the accounting database says of jobs that ended. Optional: many clusters have none, and all works without."""

from __future__ import annotations

import pwd
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from slurm.commands import SchedulerError, UnreadableAnswer, ask
from slurm.jobs import JobId, expand

COLUMNS = "JobID,State,ExitCode,DerivedExitCode,Elapsed,NodeList"
ACCOUNTING_SECONDS = 30.0
MASTERS_PER_CALL = 5000
"""One argument of a command may hold 128 KiB; ids have up to ten digits."""
_CODE = re.compile(r"(\d+):(\d+)\Z", re.ASCII)
_ELAPSED = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)\Z", re.ASCII)


@dataclass(frozen=True)
class ExitCode:
    """Slurm's `status:signal`."""

    status: int = 0
    signal: int = 0


@dataclass(frozen=True)
class AccountingRow:
    """One incarnation of a job: a requeued job has several. `state`: one word. `derived`: the worst code of its steps,
    which tells a kill under srun (0:9) from `exit(9)`. `seconds`: how long it ran. `cancelled_by`: a user's name."""

    id: JobId
    state: str
    exit_code: ExitCode = ExitCode()
    derived: ExitCode = ExitCode()
    seconds: int = 0
    nodes: str = ""
    cancelled_by: str | None = None


@dataclass(frozen=True)
class Accounting:
    """The rows of some jobs, all incarnations, oldest first."""

    _rows: Mapping[tuple[int, int], tuple[AccountingRow, ...]] = field(default_factory=dict)

    def rows(self, job: JobId) -> tuple[AccountingRow, ...]:
        """All incarnations of the job, oldest first; none when the database does not know it."""
        return self._rows.get(job.key, ())

    def last(self, job: JobId) -> AccountingRow | None:
        """The newest incarnation: the one that says what has become of the job."""
        rows = self.rows(job)
        return rows[-1] if rows else None


@dataclass(frozen=True)
class Support:
    """Whether accounting can be asked here, and if not, why not (one line)."""

    usable: bool
    reason: str = ""


def detect_accounting(seconds: float = 10.0, environment: Mapping[str, str] | None = None) -> Support:
    """Try `sacct` once; remember the answer for the rest of the process."""
    try:
        ask(["sacct", "-X", "-P", "-n", "-S", "now", "-o", "JobID"], seconds, environment)
    except SchedulerError as error:
        return Support(False, error.said.splitlines()[0] if error.said else str(error).splitlines()[0])
    return Support(True)


def read_accounting(
    masters: Iterable[int], seconds: float = ACCOUNTING_SECONDS, environment: Mapping[str, str] | None = None
) -> Accounting:
    """Every incarnation of the jobs and arrays with these ids. No call when there are none.

    Raises:
        SchedulerError: see `commands.ask`; nothing is known of why the jobs ended then.
    """
    ids = sorted(set(masters))
    printed = []
    for first in range(0, len(ids), MASTERS_PER_CALL):
        some = ",".join(map(str, ids[first : first + MASTERS_PER_CALL]))
        printed.append(ask(["sacct", "-X", "-P", "-n", "-D", "-j", some, "-o", COLUMNS], seconds, environment))
    return parse_accounting("".join(printed))


def user_name(uid: int) -> str:
    """The name of a user; the number for one that this machine does not know."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def parse_accounting(text: str, name_of: Callable[[int], str] = user_name) -> Accounting:
    """The rows in what `sacct -X -P -n -D -o COLUMNS` printed. Rows of steps (`9.batch`) are passed over.

    Raises:
        UnreadableAnswer: a line cannot be read; holds the line.
    """
    rows: dict[tuple[int, int], tuple[AccountingRow, ...]] = {}
    for line in text.splitlines():
        for row in _rows_of(line, name_of):
            rows[row.id.key] = (*rows.get(row.id.key, ()), row)
    return Accounting(rows)


def _rows_of(line: str, name_of: Callable[[int], str]) -> Iterator[AccountingRow]:
    fields = line.split("|")
    if not line.strip() or "." in fields[0]:
        return
    try:
        if len(fields) != 6:
            raise UnreadableAnswer(f"{len(fields)} columns instead of 6")
        job, words, code, derived, elapsed, nodes = fields
        state, _, by = words.strip().partition(" by ")
        ended = (_code(code), _code(derived), _seconds(elapsed), nodes)
        cancelled_by = name_of(int(by)) if by.isdecimal() else by or None
        for id in expand(job):
            yield AccountingRow(id, state.partition(" ")[0], *ended, cancelled_by)
    except UnreadableAnswer as error:
        raise UnreadableAnswer(
            f"sacct printed a line that cannot be read: '{line}' ({error}).\n  Expected the columns {COLUMNS}."
        ) from error


def _code(text: str) -> ExitCode:
    if not text:  # a job that has not started
        return ExitCode()
    match = _CODE.match(text)
    if match is None:
        raise UnreadableAnswer(f"'{text}' is not an exit code such as 1:0")
    return ExitCode(int(match[1]), int(match[2]))


def _seconds(text: str) -> int:
    """`02:05`, `01:02:05` or `3-01:02:05`."""
    if not text:
        return 0
    match = _ELAPSED.match(text)
    if match is None:
        raise UnreadableAnswer(f"'{text}' is not a time such as 1-02:03:04")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
