"""YAML with places: the plain value of a file, and the line of every key and item in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from benchmark.errors import ConfigError

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Marked:
    """A parsed file. `lines[place]` is the 1-based line of the key or list item at that place."""

    source: str
    value: Any
    lines: dict[Place, int] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """`study.yaml:14`, for the place or its nearest recorded parent; just the source for flags."""
        for cut in range(len(place), -1, -1):
            if place[:cut] in self.lines:
                return f"{self.source}:{self.lines[place[:cut]]}"
        return self.source


def parse(text: str, source: str) -> Marked:
    """Parse YAML text.

    Raises:
        ConfigError: it is not YAML, or a mapping repeats a key; names source, line and what was found.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Place, int] = {}
        value = None if node is None else _build(loader, node, (), lines, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {error}.") from error
    finally:
        loader.dispose()
    return Marked(source, value, lines)


def _build(loader: yaml.SafeLoader, node: yaml.Node, place: Place, lines: dict[Place, int], source: str) -> Any:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if key in result:
                raise ConfigError(f"{source}:{line}: key '{key}' is given twice. Keep one of them.")
            lines[(*place, key)] = line
            result[key] = _build(loader, value_node, (*place, key), lines, source)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*place, index), lines, source) for index, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)
