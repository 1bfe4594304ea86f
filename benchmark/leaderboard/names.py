"""What tables and rows are called, and which runs make one row."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.identity import RunSpec, short_value, shown_protocol
from benchmark.leaderboard.records import Record, part_text


@dataclass(frozen=True)
class Named:
    """The runs of one row, by seed. `key` tells rows of one block apart, `label` is what a reader sees."""

    key: str
    label: str
    records: tuple[Record, ...]


def row_names(records: Iterable[Record]) -> list[Named]:
    """Runs of one block as rows: one per method, resolved settings and way in which its base runs were made.

    The label is the shortest spelling of the settings. When two rows have the same one (they differ in settings that
    were not spelled out), a digest of what they differ in is added. Then come the marks of the fact `marks`, each run's
    own, in brackets: what a reader must know of the row.
    """
    groups = _rows(records)
    labels = {
        key: min((record.spec.label for record in group), key=lambda text: (len(text), text))
        for key, group in groups.items()
    }
    shared = {label for label, count in Counter(labels.values()).items() if count > 1}
    return [
        Named(
            key,
            (f"{labels[key]} [{_digest(key)}]" if labels[key] in shared else labels[key]) + _marks(group),
            tuple(sorted(group, key=lambda record: (record.spec.seed, record.run))),
        )
        for key, group in groups.items()
    ]


def _marks(group: Iterable[Record]) -> str:
    """` [fixed sigma]`; where only some of the finished runs have a mark, ` [fixed sigma 2/5]`."""
    finished = [record for record in group if record.finished]
    counts = Counter(
        mark.strip() for record in finished for mark in str(record.facts.get("marks", "")).split(",") if mark.strip()
    )
    texts = [mark if count == len(finished) else f"{mark} {count}/{len(finished)}" for mark, count in counts.items()]
    return f" [{', '.join(texts)}]" if texts else ""


def _rows(records: Iterable[Record]) -> dict[str, list[Record]]:
    methods: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        methods[part_text(record.spec.method)].append(record)
    rows: dict[str, list[Record]] = defaultdict(list)
    for method, group in methods.items():
        known = sorted({record.lineage for record in group if record.lineage is not None})
        for record in group:
            # The base of a run that was never started may be unreadable: it belongs to the first row there is.
            lineage = record.lineage if record.lineage is not None else (known or [""])[0]
            rows[f"{method} {lineage}"].append(record)
    return rows


def table_titles(specs: Mapping[str, RunSpec]) -> dict[str, str]:
    """Titles by key: the task's name, and of its settings, version, data and protocol what differs among its tables."""
    titles = {}
    for key, spec in specs.items():
        same = [other for other in specs.values() if other.task.name == spec.task.name]
        parts = [spec.task.name, *_differing(spec.task.config, [other.task.config for other in same])]
        if len({other.task.version for other in same}) > 1:
            parts.append(f"v{spec.task.version}")
        parts += _differing(shown_protocol(spec.protocol), [shown_protocol(other.protocol) for other in same])
        if len({other.fingerprint for other in same if part_text(other.task) == part_text(spec.task)}) > 1:
            parts.append(f"data {spec.fingerprint[:8]}")
        titles[key] = " ".join(parts)
    return titles


def short_settings(settings: Mapping[str, Any]) -> str:
    """Settings as `name=value`, in the order of names."""
    return " ".join(f"{name}={short_value(settings[name])}" for name in sorted(settings))


def _differing(own: Mapping[str, Any], every: list[Mapping[str, Any]]) -> list[str]:
    absent = object()
    names = sorted({name for settings in every for name in settings})
    differ = [name for name in names if any(each.get(name, absent) != every[0].get(name, absent) for each in every)]
    return [f"{name}={short_value(own[name])}" for name in differ if name in own]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:4]
