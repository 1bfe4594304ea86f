"""From a study to its runs: the matrix, the runs that its rows need, and the order that respects the needs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmark.contracts import Task
from benchmark.errors import ConfigError, UnknownNameError, nearest
from benchmark.identity import Part, RunSpec
from benchmark.registry import METHODS, NETWORKS, TASKS
from benchmark.study import Item, Study, make_item


@dataclass(frozen=True)
class Cell:
    """One run of a plan. `row` is False for a run that is only there because another one needs it."""

    spec: RunSpec
    row: bool = True


@dataclass(frozen=True)
class Plan:
    """The runs of a study, every run after the runs it needs; and the cells that the study excludes."""

    study: Study
    cells: tuple[Cell, ...]
    excluded: tuple[RunSpec, ...] = ()

    @property
    def specs(self) -> dict[str, RunSpec]:
        """Run id -> specification, in plan order."""
        return {cell.spec.id: cell.spec for cell in self.cells}

    @property
    def rows(self) -> dict[str, RunSpec]:
        """The runs that are cells of the study's own matrix."""
        return {cell.spec.id: cell.spec for cell in self.cells if cell.row}


def plan(study: Study) -> Plan:
    """Expand a study. Runs that appear twice (a base network, a shared ensemble member) are one run.

    Raises:
        ConfigError: a method needs a run that cannot be made, or methods need each other in a circle.
    """
    return _Planner(study).plan()


@dataclass
class _Planner:
    study: Study
    cells: dict[str, Cell] = field(default_factory=dict)
    excluded: list[RunSpec] = field(default_factory=list)
    _used: set[int] = field(default_factory=set)
    _items: dict[tuple[str, str], Item] = field(default_factory=dict)
    _parts: dict[int, tuple[Item, Part]] = field(default_factory=dict)
    _made: dict[tuple[Any, ...], tuple[RunSpec, ...]] = field(default_factory=dict)

    def plan(self) -> Plan:
        protocol = self.study.protocol.identity()
        for task in self.study.tasks:
            plugin = TASKS.get(task.name)
            self._refuse_attacks_without_bounds(task, plugin)
            place = (Part(task.name, plugin.version, task.config.identity()), plugin.fingerprint(task.config))
            for network in self.study.networks:
                part = Part(network, NETWORKS.family(network)[1].version)
                for method in self.study.methods:
                    for seed in self.study.seeds:
                        self._add_row(method, place, part, protocol, seed)
        self._refuse_idle_patterns()
        return Plan(self.study, tuple(self.cells.values()), tuple(self.excluded))

    def _refuse_attacks_without_bounds(self, task: Item, plugin: Task) -> None:
        attacks = self.study.protocol.attacks
        if attacks and plugin.input_range(task.config) is None:
            raise ConfigError(
                f"study '{self.study.name}': the protocol has attacks ({attacks[0].label}, ...), and task "
                f"'{task.name}' does not say between which values its inputs lie, so that no attack has a strength.\n"
                "  Leave out 'attacks' or the task, or define `input_range` in the task."
            )

    def _refuse_idle_patterns(self) -> None:
        for index, pattern in enumerate(self.study.exclude):
            if index not in self._used:
                names = {
                    "task": [task.name for task in self.study.tasks],
                    "network": list(self.study.networks),
                    "method": [method.name for method in self.study.methods],
                    "seed": [str(seed) for seed in self.study.seeds],
                }
                near = "".join(nearest(text, names[key]) for key, text in pattern.items() if text not in names[key])
                raise ConfigError(
                    f"study '{self.study.name}': the exclude pattern {dict(pattern)} matches no run of the study.{near}"
                )

    def _add_row(
        self, method: Item, task: tuple[Part, str], network: Part, protocol: Mapping[str, Any], seed: int
    ) -> None:
        names = {"task": task[0].name, "network": network.name, "method": method.name, "seed": str(seed)}
        specs = self._with_needs(method, task, network, protocol, seed, ())
        own = specs[-1]
        hits = {index for index, pattern in enumerate(self.study.exclude) if _matches(pattern, names)}
        if hits:
            self._used |= hits
            self.excluded.append(own)
            return
        for spec in specs[:-1]:
            self.cells.setdefault(spec.id, Cell(spec, row=False))
        self.cells[own.id] = Cell(own, row=True)  # a run that another one needed before keeps its earlier place

    def _with_needs(
        self,
        method: Item,
        task: tuple[Part, str],
        network: Part,
        protocol: Mapping[str, Any],
        seed: int,
        chain: tuple[str, ...],
    ) -> tuple[RunSpec, ...]:
        """The runs that `method` needs, depth first, and last its own. Runs that many rows share are made once."""
        key = (id(method), id(task[0]), network.name, seed)
        if key not in self._made:
            self._made[key] = tuple(self._make(method, task, network, protocol, seed, chain))
        return self._made[key]

    def _make(
        self,
        method: Item,
        task: tuple[Part, str],
        network: Part,
        protocol: Mapping[str, Any],
        seed: int,
        chain: tuple[str, ...],
    ) -> Iterator[RunSpec]:
        if method.name in chain:
            raise ConfigError(f"methods need each other in a circle: {' -> '.join([*chain, method.name])}.")
        ids = []
        for need in METHODS.get(method.name).needs(method.config):
            item = self._needed_item(method.name, need.method, need.config)
            specs = self._with_needs(item, task, network, protocol, seed, (*chain, method.name))
            ids.append(specs[-1].id)
            yield from specs
        yield RunSpec(
            task=task[0],
            fingerprint=task[1],
            network=network,
            method=self._part(method),
            protocol=protocol,
            seed=seed,
            needs=tuple(ids),
            given=method.given,
        )

    def _needed_item(self, asking: str, name: str, config: Mapping[str, Any]) -> Item:
        key = (name, repr(sorted(config.items())))
        if key not in self._items:
            try:
                self._items[key] = make_item(METHODS, name, config, self.study.defaults.get(name, {}))
            except UnknownNameError as error:
                raise ConfigError(f"method '{asking}' needs runs of '{name}': {error}") from error
        return self._items[key]

    def _part(self, method: Item) -> Part:
        if id(method) not in self._parts:
            part = Part(method.name, METHODS.get(method.name).version, method.config.identity())
            self._parts[id(method)] = (method, part)  # the item is kept alive, so that its id stays its own
        return self._parts[id(method)][1]


def _matches(pattern: Mapping[str, str], names: Mapping[str, str]) -> bool:
    return all(fnmatch.fnmatchcase(names[key], text) for key, text in pattern.items())
