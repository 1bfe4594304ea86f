"""Times measured on different devices do not share a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmark.leaderboard.records import Record

LATENCY = "latency_ms"
SETTING = ("device", "dtype", "threads", "torch", "mode")
"""What must be equal for two latencies to be compared."""


def withheld_columns(records: Iterable[Record]) -> dict[str, str]:
    """Metrics that a table of these runs must not show, with the reason."""
    found: Counter[str] = Counter()
    for record in records:
        latency = record.result.get("latency") if record.result is not None else None
        if latency is not None:
            found[_setting(latency)] += 1
    if len(found) < 2:
        return {}
    listed = "; ".join(f"{setting} ({count} runs)" for setting, count in sorted(found.items()))
    return {LATENCY: f"latency is not compared across devices, and these runs were measured on {len(found)}: {listed}"}


def _setting(latency: dict[str, object]) -> str:
    device, dtype, threads, torch, mode = (latency.get(name, "?") for name in SETTING)
    return f"{device}, {dtype}, {threads} thread{'s' if threads != 1 else ''}, torch {torch}, {mode} timing"
