"""Which data sets a study and its planned runs read, and which ones the installed tasks and networks know, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.datasets import DataSet, data_root, fingerprint_of
from benchmark.errors import BenchError, ConfigError
from benchmark.files import canonical_json
from benchmark.registry import NETWORKS, TASKS

if TYPE_CHECKING:
    from benchmark.contracts import Task
    from benchmark.identity import RunSpec
    from benchmark.study import Study


def data_of(study: Study) -> tuple[DataSet, ...]:
    """The data sets that the study's tasks and networks read, and corrupted data where its protocol asks for shift.

    Networks are asked only beside a task whose own data are whole: what they need may depend on its image size, and a
    task may look into its files to tell it. Once those are there, the list may be longer.
    """
    found: dict[str, DataSet] = {}
    for item in study.tasks:
        found |= _named(data_of_task(item.name, item.config, shift=bool(study.protocol.shift)))
    for item in study.tasks:
        task = TASKS.get(item.name)
        if not any(each.problems(data_root()) for each in task.data(item.config)):
            shape = task.info(item.config).input_shape
            for network in study.networks:
                found |= _named(NETWORKS.family(network.name)[1].data(network.name, network.config, shape))
    return tuple(found.values())


def data_of_runs(specs: Iterable[RunSpec]) -> tuple[DataSet, ...]:
    """The data sets that planned runs read: those of their tasks, corrupted data where the protocol asks for shift,
    and the weights that their networks start from. `check_data` of them tells whether the runs can be started.

    As in `data_of`, networks are asked only beside a task whose own data are whole.
    """
    found: dict[str, DataSet] = {}
    seen: set[str] = set()
    shapes: dict[str, tuple[int, int, int] | None] = {}
    for spec in specs:
        task = TASKS.get(spec.task.name)
        key = canonical_json([spec.task.identity(), bool(spec.protocol.get("shift"))])
        if key not in shapes:
            config = task.Config(**spec.task.config)
            found |= _named(data_of_task(spec.task.name, config, shift=bool(spec.protocol.get("shift"))))
            whole = not any(each.problems(data_root()) for each in task.data(config))
            shapes[key] = task.info(config).input_shape if whole else None
        shape, name = shapes[key], spec.network.name
        if shape is not None and (pair := canonical_json([key, spec.network.identity()])) not in seen:
            seen.add(pair)
            family = NETWORKS.family(name)[1]
            found |= _named(family.data(name, family.Config(**spec.network.config), shape))
    return tuple(found.values())


def data_of_task(name: str, config: Any, *, shift: bool) -> tuple[DataSet, ...]:
    """The data sets of one task with these settings, with those of its corrupted test data if `shift`."""
    task = TASKS.get(name)
    return (*task.data(config), *(task.corruption_data(config) if shift else ()))


def known_data(broken: list[str] | None = None) -> dict[str, DataSet]:
    """By name, sorted: the data sets of every installed task with its default settings.

    A task that cannot be loaded or asked hides none of the others; what is wrong with it is appended to `broken`.
    """
    found: dict[str, DataSet] = {}
    for name in TASKS.names():
        try:
            config = TASKS.get(name).Config()
            found |= _named(data_of_task(name, config, shift=True))
        except Exception as error:  # somebody's plugin
            if broken is not None:
                broken.append(f"task '{name}': {_first_line(error)}")
    return dict(sorted(found.items()))


def data_set_called(name: str, known: Mapping[str, DataSet]) -> DataSet | None:
    """The data set of that name: one of `known`, else one that a task or a family of networks makes for the name."""
    return known.get(name) or next((each for each in _made_for(name) if each is not None), None)


def _made_for(name: str) -> Iterator[DataSet | None]:
    for registry in (TASKS, NETWORKS):
        for plugin in registry.names():
            try:
                yield registry.get(plugin).data_set(name)
            except BenchError:  # a plugin that cannot be loaded knows no data set
                continue


def _named(sets: Iterable[DataSet]) -> dict[str, DataSet]:
    return {each.name: each for each in sets}


def _first_line(error: BaseException) -> str:
    """A configuration error says all in its text; of a traceback, the last line does."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return str(error) if isinstance(error, ConfigError) else lines[-1]


def fingerprint_under(task: Task, config: Any, shift: Sequence[int]) -> str:
    """The fingerprint of everything that a run of this task reads: its data, and corrupted data where the protocol
    asks for any."""
    own = task.fingerprint(config)
    return fingerprint_of((), own, task.corruption_fingerprint(config)) if shift else own
