"""Which resources the runs of a study ask for, from all that has a say in it."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.identity import RunSpec
from benchmark.registry import METHODS, TASKS
from benchmark.resources import Resources
from benchmark.study import Study


def resources_of(study: Study, specs: Iterable[RunSpec]) -> dict[str, Resources]:
    """Run id -> what it asks for. Of the study's entries that match, the last one that says something wins."""
    usual: dict[tuple[int, int], Resources] = {}
    found: dict[str, Resources] = {}
    for spec in specs:
        parts = (id(spec.task), id(spec.method))  # shared by the runs of a plan
        if parts not in usual:
            task, method = TASKS.get(spec.task.name), METHODS.get(spec.method.name)
            of_method = method.resources(method.Config(**spec.method.config))
            usual[parts] = task.resources(task.Config(**spec.task.config)).over(of_method)
        asked = usual[parts]
        for request in study.resources:
            if request.matches(spec):
                asked = request.resources.over(asked)
        found[spec.id] = asked
    return found
