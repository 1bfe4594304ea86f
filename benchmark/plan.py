"""From a study to its runs: the matrix, the runs that its rows need, and the order that respects the needs."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmark.config import Config
from benchmark.contracts import Method, Need, Task, TaskInfo
from benchmark.datasets import check_data
from benchmark.errors import ConfigError, UnknownNameError, nearest
from benchmark.identity import Part, RunSpec
from benchmark.needed_data import data_of, fingerprint_under
from benchmark.registry import METHODS, NETWORKS, TASKS
from benchmark.resources import PATTERN_KEYS
from benchmark.study import Item, Study, make_item

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Cell:
    """One run of a plan. `row` is False for a run that is only there because another one needs it."""

    spec: RunSpec
    row: bool = True


@dataclass(frozen=True)
class Plan:
    """The runs of a study, every run after the runs it needs; and the cells that the study excludes.

    references: row -> the run whose predictive it is compared with, for studies that have one; a reference is its own.
    """

    study: Study
    cells: tuple[Cell, ...]
    excluded: tuple[RunSpec, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)

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
    references: dict[str, str] = field(default_factory=dict)
    _used: set[int] = field(default_factory=set)
    _rows: dict[tuple[int, int], list[RunSpec]] = field(default_factory=lambda: defaultdict(list))
    _companions: set[str] = field(default_factory=set)
    _items: dict[tuple[str, str], Item] = field(default_factory=dict)
    _settled: dict[tuple[Any, ...], _Settled] = field(default_factory=dict)
    _made: dict[tuple[Any, ...], tuple[RunSpec, ...]] = field(default_factory=dict)

    def plan(self) -> Plan:
        check_data(data_of(self.study))
        protocol = self.study.protocol.identity()
        for task in self.study.tasks:
            plugin = TASKS.get(task.name)
            self._refuse_impossible_evaluation(task, plugin)
            part = Part(task.name, plugin.version, task.config.identity())
            fingerprint = fingerprint_under(plugin, task.config, self.study.protocol.shift)
            info = plugin.info(task.config)
            for network in self.study.networks:
                place = _Place(part, fingerprint, info, _network_part(network, info), protocol)
                for method in self.study.methods:
                    added = [seed for seed in self.study.seeds if self._add_row(method, place, seed) is not None]
                    self._add_companions(method, place, added)
                self._compare(place)
        self._refuse_idle_patterns()
        self._refuse_idle_requests()
        return Plan(self.study, tuple(self.cells.values()), tuple(self.excluded), self.references)

    def _refuse_impossible_evaluation(self, task: Item, plugin: Task) -> None:
        attacks, shift = self.study.protocol.attacks, self.study.protocol.shift
        if shift and not plugin.corruptions(task.config):
            raise ConfigError(
                f"study '{self.study.name}': the protocol asks for shift at severity {', '.join(map(str, shift))}, and "
                f"task '{task.name}' has no corruptions.\n  Leave out 'shift' or the task, or define `corruptions` "
                "and `corrupted` in the task."
            )
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
                    "network": [network.name for network in self.study.networks],
                    "method": [method.name for method in self.study.methods],
                    "seed": [str(seed) for seed in self.study.seeds],
                }
                near = "".join(nearest(text, names[key]) for key, text in pattern.items() if text not in names[key])
                raise ConfigError(
                    f"study '{self.study.name}': the exclude pattern {dict(pattern)} matches no run of the study.{near}"
                )

    def _refuse_idle_requests(self) -> None:
        for request in self.study.resources:
            if not any(request.matches(cell.spec) for cell in self.cells.values()):
                given = request.model_dump(include=set(PATTERN_KEYS), exclude_defaults=True)
                names = sorted({cell.spec.method.name for cell in self.cells.values()})
                raise ConfigError(
                    f"study '{self.study.name}': the entry of 'resources' for {given} matches no run of the study."
                    f"{nearest(given.get('method', ''), names)}\n  methods: {', '.join(names)}"
                )

    def _add_row(self, method: Item, place: _Place, seed: int) -> str | None:
        """Plan a row with what it needs; its run, None when the study excludes it."""
        names = {
            "task": place.task.name,
            "network": place.network.name,
            "method": method.name,
            "seed": str(seed),
        }
        specs = self._with_needs(method, place, seed, ())
        own = specs[-1]
        hits = {index for index, pattern in enumerate(self.study.exclude) if _matches(pattern, names)}
        if hits:
            self._used |= hits
            self.excluded.append(own)
            return None
        for spec in specs[:-1]:
            self.cells.setdefault(spec.id, Cell(spec, row=False))
        known = self.cells.get(own.id)
        if known is None or not known.row:
            self.cells[own.id] = Cell(own, row=True)  # a run that another one needed before keeps its earlier place
            self._rows[place.key].append(own)
        return own.id

    def _add_companions(self, method: Item, place: _Place, seeds: list[int]) -> None:
        """Rows that the method's row is not to be seen without, for the seeds that it has, unless the study excludes
        them."""
        plugin = METHODS.get(method.name)
        if type(plugin).companions is Method.companions:
            return
        for companion in plugin.companions(self._settle(method, place).config):
            item = self._needed_item(method.name, companion)
            for seed in seeds:
                known = len(self._rows[place.key])
                run = self._add_row(item, place, seed)
                if run is not None and len(self._rows[place.key]) > known:
                    self._companions.add(run)

    def _compare(self, place: _Place) -> None:
        """Note for every row of a place the run that it is compared with: the one that the study names, else the only
        one whose method is made to be a reference, companions included. Without such a row there is none."""
        rows = self._rows.get(place.key, [])
        made_for_it = {name for name in {spec.method.name for spec in rows} if METHODS.get(name).reference}
        if self.study.reference is None and not made_for_it:
            return
        for seed in self.study.seeds:
            own = [spec for spec in rows if spec.seed == seed]
            if self.study.reference is None:
                found = [spec.id for spec in own if spec.method.name in made_for_it]
                found = [run for run in found if run not in self._companions] or found  # what was asked for comes first
            else:
                named = self._with_needs(self.study.reference, place, seed, ())[-1].id
                found = [spec.id for spec in own if spec.id == named]
            if len(found) == 1:
                self.references |= {spec.id: found[0] for spec in own}

    def _with_needs(self, method: Item, place: _Place, seed: int, chain: tuple[str, ...]) -> tuple[RunSpec, ...]:
        """The runs that `method` needs, depth first, and last its own. Runs that many rows share are made once."""
        key = (id(method), place.key, seed)
        if key not in self._made:
            self._made[key] = tuple(self._make(method, place, seed, chain))
        return self._made[key]

    def _make(self, method: Item, place: _Place, seed: int, chain: tuple[str, ...]) -> Iterator[RunSpec]:
        if method.name in chain:
            raise ConfigError(f"methods need each other in a circle: {' -> '.join([*chain, method.name])}.")
        ids, needed = [], []
        plugin, settled = METHODS.get(method.name), self._settle(method, place)
        for need in plugin.needs(settled.config):
            specs = self._with_needs(self._needed_item(method.name, need), place, seed, (*chain, method.name))
            ids.append(specs[-1].id)
            needed.append(Need(need.method, specs[-1].method.config))
            yield from specs
        yield RunSpec(
            task=place.task,
            fingerprint=place.fingerprint,
            network=place.network,
            method=settled.part,
            protocol=place.protocol,
            seed=seed,
            needs=tuple(ids),
            given=method.given,
            title=plugin.title(settled.config, needed),
        )

    def _needed_item(self, asking: str, need: Need) -> Item:
        key = (need.method, repr(sorted(need.config.items())))
        if key not in self._items:
            defaults = self.study.defaults.get(need.method, {})
            try:
                self._items[key] = make_item(METHODS, need.method, need.config, defaults)
            except UnknownNameError as error:
                raise ConfigError(f"method '{asking}' needs runs of '{need.method}': {error}") from error
        return self._items[key]

    def _settle(self, method: Item, place: _Place) -> _Settled:
        """The settings of a method on one task and network, as the method decides them; asked once."""
        key = (id(method), place.key)
        if key not in self._settled:
            plugin, config = METHODS.get(method.name), method.config
            if type(plugin).settled is not Method.settled:
                config = plugin.settled(config, place.info, place.build)
            part = Part(method.name, plugin.version, config.identity())
            self._settled[key] = _Settled(method, config, part)
        return self._settled[key]


@dataclass(frozen=True)
class _Place:
    """Where the methods of a study are run: one task, one network, the protocol."""

    task: Part
    fingerprint: str
    info: TaskInfo
    network: Part
    protocol: Mapping[str, Any]

    @property
    def key(self) -> tuple[int, int]:
        """Tells the places of one study apart; every run planned there keeps both parts alive."""
        return id(self.task), id(self.network)

    def build(self) -> nn.Module:
        """The architecture on the meta device: shapes without memory."""
        from benchmark.weights import shapes_only

        with shapes_only():
            family = NETWORKS.family(self.network.name)[1]
            return family.build(self.network.name, self.info.input_shape, self.info.n_classes)


@dataclass(frozen=True)
class _Settled:
    """The settings of an item at one place. item: kept alive, so that its id stays its own."""

    item: Item
    config: Config
    part: Part


def _network_part(network: Item, info: TaskInfo) -> Part:
    """The network of a run. Settings that have their default value are left out: a network without settings is the same
    run as one before there were any."""
    family = NETWORKS.family(network.name)[1]
    config = family.settled(network.name, network.config, info.input_shape)
    default = family.Config().identity()
    own = {key: value for key, value in config.identity().items() if key not in default or default[key] != value}
    return Part(network.name, family.version, own)


def _matches(pattern: Mapping[str, str], names: Mapping[str, str]) -> bool:
    return all(fnmatch.fnmatchcase(names[key], text) for key, text in pattern.items())
