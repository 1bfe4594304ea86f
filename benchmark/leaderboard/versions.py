"""A report never mixes two definitions of one metric."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from benchmark.errors import ConfigError
from benchmark.leaderboard.records import Record

SHOWN = 5


def metric_versions(records: Iterable[Record]) -> dict[str, int]:
    """Metric -> its version in these results, suffixes (`.svhn`) left out.

    Raises:
        ConfigError: two versions of one metric; names the metric, the versions, the runs and the command that mends it.
    """
    runs = list(records)
    pairs = sorted({(entry["metric"], entry["version"]) for record in runs for entry in record.metrics.values()})
    versions = dict(pairs)
    if len(versions) < len(pairs):
        mixed = {name for name, version in pairs if versions[name] != version}
        raise ConfigError(_message(_runs_by_version(runs, mixed)))
    return versions


def _runs_by_version(records: list[Record], names: set[str]) -> dict[str, dict[int, list[str]]]:
    """Metric -> version -> the runs that have it."""
    found: dict[str, dict[int, set[str]]] = {name: defaultdict(set) for name in sorted(names)}
    for record in records:
        for entry in record.metrics.values():
            if entry["metric"] in found:
                found[entry["metric"]][entry["version"]].add(record.run)
    return {name: {version: sorted(runs) for version, runs in each.items()} for name, each in found.items()}


def _message(mixed: dict[str, dict[int, list[str]]]) -> str:
    lines, old = [], dict[str, None]()
    for name, versions in mixed.items():
        lines.append(f"metric '{name}' has {len(versions)} versions in these runs, and a table never mixes them:")
        for version in sorted(versions):
            lines.append(f"  version {version} in {len(versions[version])} run(s): {_some(versions[version])}")
        old |= dict.fromkeys(run for version in versions if version != max(versions) for run in versions[version])
    return "\n".join(
        [*lines, f"Compute the older ones again, without training:\n  bnnbench rescore {_some(sorted(old), ' ')}"]
    )


def _some(runs: list[str], separator: str = ", ") -> str:
    more = f"{separator}... ({len(runs) - SHOWN} more)" if len(runs) > SHOWN else ""
    return separator.join(runs[:SHOWN]) + more
