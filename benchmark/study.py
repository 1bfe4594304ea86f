"""A study file, validated: which tasks, networks, methods and seeds, under which protocol.

Everything that a user may get wrong is reported here with file, line, key, legal values and the nearest match, before
anything is submitted or written. Expanding a study to runs is `benchmark.plan`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.config import Config
from benchmark.contracts import NetworkFamily
from benchmark.errors import ConfigError, nearest, unknown
from benchmark.identity import Protocol
from benchmark.registry import METHODS, NETWORKS, TASKS
from benchmark.resources import Request
from benchmark.settings import brief, expand_axes, explain
from benchmark.studies import FOLDER as BUILT_IN
from benchmark.yamlfile import COMMAND_LINE, Marked, Place, parse

KEYS = (
    "name",
    "description",
    "tasks",
    "networks",
    "methods",
    "reference",
    "seeds",
    "protocol",
    "defaults",
    "exclude",
    "resources",
    "launcher",
)
EXCLUDE_KEYS = ("task", "network", "method", "seed")


@dataclass(frozen=True)
class Item:
    """A named part of a study with settings: `given` as spelled out, `config` validated."""

    name: str
    given: Mapping[str, Any]
    config: Config


@dataclass(frozen=True)
class Study:
    """A validated study. Axes are expanded: each `Item` is one point.

    reference: the one of `methods` whose predictive the other rows are compared with, if the study names one.
    """

    name: str
    description: str
    tasks: tuple[Item, ...]
    networks: tuple[Item, ...]
    methods: tuple[Item, ...]
    seeds: tuple[int, ...]
    protocol: Protocol
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exclude: tuple[Mapping[str, str], ...] = ()
    launcher: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: Item | None = None
    resources: tuple[Request, ...] = ()


def find_study(name: str) -> Path:
    """The file of a study: a path, or the name of a built-in one.

    Raises:
        ConfigError: neither; names the built-in studies and the nearest match.
    """
    path = Path(name)
    built_in = {p.stem: p for p in sorted(BUILT_IN.glob("*.yaml"))}
    if path.is_file():
        return path
    if name in built_in:
        return built_in[name]
    if path.is_dir():
        raise ConfigError(f"study '{name}' is a folder; name a .yaml file.")
    if path.suffix in (".yaml", ".yml"):
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"study '{name}': no such file.{nearest(path.name, beside)}")
    raise ConfigError(unknown("study", name, built_in) + "\n  or the path of a .yaml file")


def read_study(name: str, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read and validate a study by path or built-in name; `overrides` replace its top-level keys (the flags)."""
    path = find_study(name)
    try:
        marked = parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 ({error}).") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    return validate(_overridden(marked, overrides or {}, default_name=path.stem))


def study_from_flags(overrides: Mapping[str, Any]) -> Study:
    """A study made of command-line flags alone."""
    return validate(_overridden(Marked(COMMAND_LINE, {}), overrides, default_name="flags"))


def _overridden(marked: Marked, overrides: Mapping[str, Any], default_name: str) -> Marked:
    if not isinstance(marked.value, dict):
        found = "is empty" if marked.value is None else f"holds {brief(marked.value)}"
        raise ConfigError(f"{marked.where(())}: a study is a mapping with the keys {', '.join(KEYS)}; this {found}.")
    value = {"name": default_name, **marked.value}
    flags: set[Place] = set()
    for key, replacement in overrides.items():
        if key == "protocol" and isinstance(value.get(key), dict):
            value[key] = {**value[key], **replacement}
            flags |= {(key, setting) for setting in replacement}
        else:
            value[key] = replacement
            flags.add((key,))
    lines = {p: line for p, line in marked.lines.items() if not any(p[: len(flag)] == flag for flag in flags)}
    return Marked(marked.source, value, lines, frozenset(flags))


def validate(marked: Marked) -> Study:
    """Check every key, name and setting of a parsed study, and expand list values into axes.

    Raises:
        ConfigError: something is wrong; names file, line, key, value, legal values and nearest match.
    """
    value = marked.value
    for key in value:
        if key not in KEYS:
            raise ConfigError(unknown("key", str(key), KEYS, marked.where((key,))))
    defaults = _defaults(marked)
    methods = tuple(_items(marked, "methods", METHODS.get, defaults))
    return Study(
        name=_name(marked),
        description=_text(marked, "description", ""),
        tasks=tuple(_items(marked, "tasks", TASKS.get, {})),
        networks=tuple(_items(marked, "networks", _network_family, {})),
        methods=methods,
        seeds=_seeds(marked),
        protocol=_validated(Protocol, _given(marked, "protocol", {}), marked, ("protocol",)),
        defaults=defaults,
        exclude=tuple(_excludes(marked)),
        launcher=_launcher(marked),
        reference=_reference(marked, methods, defaults),
        resources=tuple(_requests(marked)),
    )


def _reference(marked: Marked, methods: tuple[Item, ...], defaults: Mapping[str, Mapping[str, Any]]) -> Item | None:
    """The method of that name and settings among `methods`."""
    if marked.value.get("reference") is None:
        return None
    where, asked = marked.where(("reference",)), tuple(_items(marked, "reference", METHODS.get, defaults))
    same = [item for item in methods if (item.name, item.config) in [(each.name, each.config) for each in asked]]
    if len(asked) != 1 or len(same) != 1:
        rows = ", ".join(dict.fromkeys(item.name for item in methods))
        raise ConfigError(
            f"{where}: 'reference' is one of the study's methods with the same settings, got "
            f"{brief(marked.value['reference'])}. Name a row of 'methods' ({rows}), or add it there."
        )
    return same[0]


def make_item(registry: Any, name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Item:
    """A validated point without axes, for runs that a method needs."""
    merged = {**defaults, **given}
    marked = Marked(f"{registry.kind} '{name}'", merged)
    return Item(name, merged, _validated(registry.get(name).Config, merged, marked, ()))


def _items(
    marked: Marked, key: str, plugin_of: Callable[[str], Any], defaults: Mapping[str, Mapping[str, Any]]
) -> Iterator[Item]:
    seen: set[str] = set()
    for place, name, settings in _entries(marked, key):
        try:
            plugin = plugin_of(name)
        except ConfigError as error:
            listed = "methods" if key == "reference" else key
            raise ConfigError(f"{marked.where(place)}: {error}   (bnnbench list {listed})") from error
        merged = {**defaults.get(name, {}), **settings}
        inner = (*place, name) if (*place, name) in marked.lines else place
        for given in expand_axes(plugin.Config, merged):
            config = _validated(plugin.Config, given, marked, inner)
            shown = {k: v for k, v in given.items() if k in settings}
            point = f"{name} {config.identity()}"
            if point in seen:
                raise ConfigError(
                    f"{marked.where(place)}: {key.removesuffix('s')} '{name}' with the same settings is listed twice."
                )
            seen.add(point)
            yield Item(name, shown, config)


def _entries(marked: Marked, key: str) -> Iterator[tuple[Place, str, dict[str, Any]]]:
    """The entries of a list of names, each a name or `{name: {settings}}`; a single entry need not be a list."""
    value = marked.value.get(key)
    if value is None or value == []:
        raise ConfigError(f"{marked.where((key,))}: '{key}' is missing or empty. Example: {key}: [{_EXAMPLES[key]}]")
    entries = value if isinstance(value, list) else [value]
    for index, entry in enumerate(entries):
        place: Place = (key, index) if isinstance(value, list) else (key,)
        if isinstance(entry, str):
            yield place, entry, {}
        elif isinstance(entry, dict) and len(entry) == 1:
            name, settings = next(iter(entry.items()))
            if not isinstance(settings, dict | None) or not isinstance(name, str):
                raise ConfigError(
                    f"{marked.where(place)}: the settings of '{name}' must be a mapping, got {settings!r}. "
                    f"Example: {name}: {{setting: value}}"
                )
            yield place, name, settings or {}
        else:
            raise ConfigError(
                f"{marked.where(place)}: an entry of '{key}' is a name or 'name: {{setting: value}}', got {entry!r}."
            )


_EXAMPLES = {"tasks": "digits", "networks": "resnet20", "methods": "map"}


def _network_family(name: str) -> NetworkFamily:
    """What builds the network, whose name is a legal spelling."""
    family = NETWORKS.family(name)[1]
    family.check(name)
    return family


def _defaults(marked: Marked) -> dict[str, dict[str, Any]]:
    value = _given(marked, "defaults", {})
    if not isinstance(value, dict):
        raise ConfigError(f"{marked.where(('defaults',))}: 'defaults' maps method names to settings, got {value!r}.")
    for name, settings in value.items():
        place: Place = ("defaults", name)
        if name not in METHODS.origins():
            raise ConfigError(unknown("method", str(name), METHODS.names(), marked.where(place)))
        if not isinstance(settings, dict):
            raise ConfigError(f"{marked.where(place)}: the defaults of '{name}' must be a mapping, got {settings!r}.")
        for given in expand_axes(METHODS.get(name).Config, settings):
            if given != settings:
                raise ConfigError(
                    f"{marked.where(place)}: a default is one value; put the list under 'methods' to make it an axis."
                )
            _validated(METHODS.get(name).Config, settings, marked, place)
    return value


def _seeds(marked: Marked) -> tuple[int, ...]:
    value = marked.value.get("seeds", 1)
    where = marked.where(("seeds",))
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return tuple(range(value))
    if isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value):
        if len(set(value)) < len(value):
            raise ConfigError(f"{where}: 'seeds' repeats a seed: {value}.")
        return tuple(value)
    raise ConfigError(f"{where}: 'seeds' is a number of seeds (5) or a list of them ([0, 1, 2]), got {value!r}.")


def _excludes(marked: Marked) -> Iterator[dict[str, str]]:
    value = _given(marked, "exclude", [])
    if not isinstance(value, list):
        raise ConfigError(
            f"{marked.where(('exclude',))}: 'exclude' is a list of {{network: ..., method: ...}} patterns."
        )
    for index, pattern in enumerate(value):
        place: Place = ("exclude", index)
        if not isinstance(pattern, dict) or not pattern:
            raise ConfigError(
                f"{marked.where(place)}: a pattern maps {', '.join(EXCLUDE_KEYS)} to names, got {pattern!r}."
            )
        for key, text in pattern.items():
            if key not in EXCLUDE_KEYS:
                raise ConfigError(unknown("key", str(key), EXCLUDE_KEYS, marked.where((*place, key))))
            if not isinstance(text, str | int):
                raise ConfigError(
                    f"{marked.where((*place, key))}: '{key}' of a pattern is one name, with * and ? if you like, "
                    f"got {brief(text)}. For several, write several patterns."
                )
        yield {key: str(text) for key, text in pattern.items()}


def _requests(marked: Marked) -> Iterator[Request]:
    value = _given(marked, "resources", [])
    entries = value if isinstance(value, list) else [value]
    for index, entry in enumerate(entries):
        place: Place = ("resources", index) if isinstance(value, list) else ("resources",)
        if not isinstance(entry, dict):
            raise ConfigError(
                f"{marked.where(place)}: 'resources' is what runs ask for, {{gpus: 1, cpus: 8}}, or a list of such "
                f"with patterns, {{method: hmc, minutes: 600}}; got {brief(entry)}."
            )
        yield _validated(Request, entry, marked, place)


def _launcher(marked: Marked) -> dict[str, dict[str, Any]]:
    value = marked.value.get("launcher")
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, dict) and len(value) == 1:
        name, settings = next(iter(value.items()))
        if isinstance(settings, dict | None):
            return {str(name): settings or {}}
    raise ConfigError(
        f"{marked.where(('launcher',))}: 'launcher' is a name or one 'name: {{setting: value}}', got {value!r}."
    )


def _given(marked: Marked, key: str, default: Any) -> Any:
    """A key's value; absent and empty (`key:`) are the default."""
    value = marked.value.get(key)
    return default if value is None else value


def _name(marked: Marked) -> str:
    """The study's name, which also names the folder of its leaderboard."""
    name = _text(marked, "name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(
            f"{marked.where(('name',))}: 'name' is {name!r}; it names a folder. Legal: letters, digits, '.', '_' and "
            "'-', the first a letter or a digit."
        )
    return name


def _text(marked: Marked, key: str, default: str | None = None) -> str:
    value = marked.value.get(key, default)
    if not isinstance(value, str):
        raise ConfigError(f"{marked.where((key,))}: '{key}' must be text, got {value!r}.")
    return value


def _validated(model: type[Config], given: Any, marked: Marked, place: Place) -> Any:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{marked.where(place)}: '{place[-1]}' must be a mapping, got {brief(given)}.")
    for key in given:
        if not isinstance(key, str):
            raise ConfigError(unknown("setting", str(key), model.model_fields, marked.where((*place, key))))
    try:
        return model(**given)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, model, given, marked, place))) from error
