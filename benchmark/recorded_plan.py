"""The plan that a study had when it was last run, kept beside its runs.

Planning looks at the data on disk. Where they are not (a laptop that holds a copy of the results), runs can still be
looked at: the recorded plan tells which runs are the study's.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.datasets import MissingData
from benchmark.errors import CorruptFile
from benchmark.files import canonical_json, read_json, write_json
from benchmark.identity import RunSpec
from benchmark.plan import Cell, Plan, plan
from benchmark.study import Item, Study

SCHEMA = 1


def record(planned: Plan, results: Path) -> None:
    """Keep the plan below `results/plans`, in place of an earlier one of the same study."""
    path, content = _path(planned.study, results), _content(planned)
    with suppress(OSError, CorruptFile):
        if read_json(path) == content:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content, durable=False)


def plan_or_recorded(study: Study, results: Path) -> tuple[Plan, str | None]:
    """The study's plan; where its data are missing, the one that was recorded, with a sentence that says so.

    Raises:
        MissingData: there is no recorded plan either.
    """
    try:
        return plan(study), None
    except MissingData:
        found = _recorded(study, results)
        if found is None:
            raise
        return found, f"the data of study '{study.name}' are not here; showing the runs that it had when it was run."


def _recorded(study: Study, results: Path) -> Plan | None:
    path = _path(study, results)
    try:
        content = read_json(path)
        cells = tuple(Cell(RunSpec.from_json(cell["spec"], str(path)), cell["row"]) for cell in content["runs"])
        excluded = tuple(RunSpec.from_json(spec, str(path)) for spec in content["excluded"])
        return Plan(study, cells, excluded, content["references"]) if content["schema"] == SCHEMA else None
    except (OSError, CorruptFile, KeyError, TypeError):
        return None  # a record that cannot be read is none


def _content(planned: Plan) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "study": planned.study.name,
        "runs": [{"row": cell.row, "spec": cell.spec.to_json()} for cell in planned.cells],
        "excluded": [spec.to_json() for spec in planned.excluded],
        "references": dict(planned.references),
    }


def _path(study: Study, results: Path) -> Path:
    """Named by everything in the study that decides which runs it has."""

    def listed(items: tuple[Item, ...]) -> list[Any]:
        return [[item.name, dict(item.given), item.config.identity()] for item in items]

    content = {
        "tasks": listed(study.tasks),
        "networks": listed(study.networks),
        "methods": listed(study.methods),
        "reference": listed((study.reference,)) if study.reference else None,
        "seeds": list(study.seeds),
        "protocol": study.protocol.identity(),
        "defaults": {name: dict(settings) for name, settings in study.defaults.items()},
        "exclude": [dict(pattern) for pattern in study.exclude],
    }
    digest = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    return results / "plans" / f"{study.name}-{digest[:12]}.json"
