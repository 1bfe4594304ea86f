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
    found: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for entry in record.metrics.values():
            runs = found[entry["metric"]][entry["version"]]
            if not runs or runs[-1] is not record.run:  # several OOD sets are one metric of one run
                runs.append(record.run)
    mixed = {name: versions for name, versions in sorted(found.items()) if len(versions) > 1}
    if mixed:
        raise ConfigError(_message(mixed))
    return {name: next(iter(versions)) for name, versions in sorted(found.items())}


def _message(mixed: dict[str, dict[int, list[str]]]) -> str:
    lines, old = [], dict[str, None]()
    for name, versions in mixed.items():
        lines.append(f"metric '{name}' has {len(versions)} versions in these runs, and a table never mixes them:")
        for version in sorted(versions):
            lines.append(f"  version {version} in {len(versions[version])} run(s): {_some(sorted(versions[version]))}")
        old |= dict.fromkeys(run for version in versions if version != max(versions) for run in versions[version])
    return "\n".join(
        [*lines, f"Compute the older ones again, without training:\n  bnnbench rescore {_some(sorted(old), ' ')}"]
    )


def _some(runs: list[str], separator: str = ", ") -> str:
    more = f"{separator}... ({len(runs) - SHOWN} more)" if len(runs) > SHOWN else ""
    return separator.join(runs[:SHOWN]) + more
