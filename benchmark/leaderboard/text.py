"""Cells, captions and footnotes as text: what terminal, Markdown and HTML have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmark.identity import shown_protocol
from benchmark.leaderboard.cell import Cell, SeedValue
from benchmark.leaderboard.columns import FLOORS
from benchmark.leaderboard.names import short_settings
from benchmark.leaderboard.records import Record
from benchmark.leaderboard.table import Leaderboard, Row, Table
from benchmark.metrics.views import INFINITY, NOT_APPLICABLE, show_number
from benchmark.statistics import MIN_SEEDS

STALE = "†"
INCOMPLETE = "‡"
CALIBRATED = "≈"
AT_BOUND = "§"
NOTHING = "–"
UNFINISHED = ("new", "running", "lost")
"""Statuses that are no failure (yet), in lower case."""
REFRESH = "bnnbench run ... --rerun stale"
LISTED = 4
"""Runs that a footnote names; the rest is counted."""


def cell_text(row: Row, metric: str) -> str:
    """A cell of a table, without the marks of the best.

    n >= 3: `91.23 ±0.45`; n = 2: `91.23 [90.80, 91.66]`; a calibration error with its floor in brackets, and `≈` when
    it is not distinguishable from calibrated; `§` when the temperature behind it is at its bound; `‡` when seeds are
    missing.
    """
    cell = row.cells[metric]
    if cell.state == "failed":
        return status_text(cell)
    floor = row.cells.get(FLOORS.get(metric, ""))
    text = value_text(cell)
    if cell.state == "ok" and floor is not None and floor.interval is not None:
        text += f" ({show_number(floor.metric, floor.interval.mean)})"
    marks = ((CALIBRATED, row.calibrated(metric)), (AT_BOUND, cell.at_bound), (INCOMPLETE, is_incomplete(cell)))
    return text + "".join(mark for mark, holds in marks if holds)


def value_text(cell: Cell) -> str:
    """The number over seeds with its interval or range, infinity, or n/a."""
    if cell.interval is None:
        return {"inf": INFINITY, "na": NOT_APPLICABLE}.get(cell.state) or status_text(cell)
    mean = show_number(cell.metric, cell.interval.mean)
    low, high, half = cell.interval.low, cell.interval.high, cell.interval.half_width
    if half is not None:
        return f"{mean}{_half_width(cell.metric, cell.interval.mean, half)}"
    if low is None or high is None or low == high:
        return mean
    return f"{mean} [{show_number(cell.metric, low)}, {show_number(cell.metric, high)}]"


def is_incomplete(cell: Cell) -> bool:
    """Whether a cell shows a number although seeds are missing."""
    return cell.state in ("ok", "inf") and not cell.complete


def status_text(cell: Cell) -> str:
    """Why a cell has no number: failures in capitals, `OOM`; `running` or `new` while nothing has failed."""
    words = sorted({status_word(reason) for reason in cell.reasons})
    return "/".join([word for word in words if word not in UNFINISHED] or words) or "FAILED"


def status_word(reason: str) -> str:
    """`oom: ...` -> `OOM`; `running` stays as it is; a reason that names no status is `FAILED`."""
    status = reason.partition(":")[0].strip()
    if status in UNFINISHED:
        return status
    known = ("oom", "timeout", "killed", "diverged", "skipped", "corrupt")
    return status.upper() if status in known else "FAILED"


def seed_text(metric: str, value: SeedValue) -> str:
    """One seed's value on its own."""
    if value.value is not None:
        return show_number(metric, value.value)
    return {"inf": INFINITY, "na": NOT_APPLICABLE}.get(value.state) or status_word(value.reason)


def draws_text(row: Row) -> str:
    """S, a dash before the first result."""
    return "/".join(map(str, row.draws)) or NOTHING


def caption(table: Table) -> str:
    """What the numbers of a table are: protocol, and what stands after +-."""
    counts = sorted({len(row.records) for row in table.rows})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    noun = "seed" if counts == [1] else "seeds"
    if counts[-1] >= MIN_SEEDS:
        pairs = any(row.finished == 2 for row in table.rows)
        spread = f"mean ± 95% t-interval, {seeds} {noun}" + (" ([range] where there are two)" if pairs else "")
    elif counts[-1] == 2:
        spread = f"mean [range], {seeds} {noun}"
    else:
        spread = f"{seeds} {noun}"
    return f"{spread}; {short_settings(shown_protocol(table.protocol))}; data {table.fingerprint[:8]}"


def legend(leaderboard: Leaderboard) -> list[str]:
    """The signs that occur in these tables, explained."""
    cells = [row.cells[column.name] for table in leaderboard.tables for row in table.rows for column in table.columns]
    lines = []
    if any(row.calibrated(name) for row in leaderboard.rows for name in FLOORS if name in row.cells):
        lines.append(f"{CALIBRATED} not distinguishable from calibrated (at or below the 95% noise bound)")
    if any(cell.at_bound for cell in cells):
        lines.append(f"{AT_BOUND} the temperature is at the end of its range: the validation data set no finite scale")
    if any(is_incomplete(cell) for cell in cells):
        lines.append(f"{INCOMPLETE} seeds are missing: over the seeds there are, not ranked")
    return lines


def footnotes(leaderboard: Leaderboard) -> list[str]:
    """Stale rows with the command that refreshes them, and which runs have no result."""
    stale = [record for row in leaderboard.rows for record in row.stale]
    lines = []
    if stale:
        lines.append(f"{STALE} {_count(stale)} of earlier code ({REFRESH} makes them anew): {_some(stale)}")
    return lines


def missing_text(record: Record) -> str:
    """A run without a result in one line: `oom in fit: message`."""
    phase = f" in {record.detail['phase']}" if record.detail.get("phase") else ""
    message = str(record.detail.get("message") or record.note).strip()
    first = message.splitlines()[0] if message else ""
    return f"{record.status}{phase}" + (f": {first}" if first else "")


def missing_summary(records: Iterable[Record]) -> str:
    """`3 of the runs have no result: 2 oom, 1 new`."""
    counts = Counter(record.status for record in records)
    listed = ", ".join(
        f"{count} {status}" for status, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    total = sum(counts.values())
    return f"{total} run{'' if total == 1 else 's'} without a result: {listed}"


def version_line(leaderboard: Leaderboard) -> str:
    """`metric versions: all 1`, or the exceptions by name."""
    versions = leaderboard.versions
    if not versions:
        return "metric versions: no results yet"
    common = Counter(versions.values()).most_common(1)[0][0]
    others = [f"{name} {version}" for name, version in versions.items() if version != common]
    return f"metric versions: all {common}" + (f" but {', '.join(others)}" if others else "")


def _half_width(metric: str, mean: float, half: float) -> str:
    """` ±0.45` in the unit and with the decimals of the mean; in per cent of it where the unit is in the cell (KiB)."""
    shown = show_number(metric, mean)
    if any(letter.isalpha() for letter in shown.removeprefix("x")):
        share = abs(half / mean) * 100 if mean else 0.0
        if share == 0:
            return ""
        return " ±<0.1%" if share < 0.05 else f" ±{share:.{0 if share >= 9.5 else 1}f}%"
    decimals = len(shown.partition(".")[2])
    own = show_number(metric, half).lstrip("+x")
    return f" ±{own if len(own.partition('.')[2]) <= decimals else f'{half:.{decimals}f}'}"


def _count(records: list[Record]) -> str:
    return f"{len(records)} run{'' if len(records) == 1 else 's'}"


def _some(records: list[Record]) -> str:
    more = f" ... ({len(records) - LISTED} more)" if len(records) > LISTED else ""
    return " ".join(record.run for record in records[:LISTED]) + more
