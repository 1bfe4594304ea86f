"""YAML with places: the plain value of a file, and the line of every key and item in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from benchmark.errors import ConfigError

Place = tuple[str | int, ...]

COMMAND_LINE = "command line"
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True)
class Marked:
    """A parsed file. `lines[place]` is the 1-based line of the key or list item at that place; `flags` are the places
    that the command line put there."""

    source: str
    value: Any
    lines: dict[Place, int] = field(default_factory=dict)
    flags: frozenset[Place] = frozenset()

    def where(self, place: Place) -> str:
        """`study.yaml:14`, for the place or its nearest recorded parent; `command line` for flags."""
        for cut in range(len(place), -1, -1):
            if place[:cut] in self.flags:
                return COMMAND_LINE
            if place[:cut] in self.lines:
                return f"{self.source}:{self.lines[place[:cut]]}"
        return self.source


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, plus the floats of YAML 1.2: plain `1e-3` is text to PyYAML."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z"), list("-+.0123456789")
)


def parse(text: str, source: str) -> Marked:
    """Parse YAML text.

    Raises:
        ConfigError: it is not YAML, a mapping repeats a key, or a key is not a plain value; names source, line and
            what was found.
    """
    lines: dict[Place, int] = {}
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            value = None
            if node is not None:
                _check_keys(loader, node, source)
                value = _build(loader, node, (), lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{place}: not valid YAML: {error.problem or error.context}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{source}:{line}: not valid YAML: the character {chr(error.character)!r} is not text."
        ) from error
    return Marked(source, value, lines)


def _check_keys(loader: yaml.SafeLoader, root: yaml.Node, source: str) -> None:
    """Refuse repeated keys, keys that are lists or mappings, and values that contain themselves.

    Before anything is built: merging (`<<`) puts keys into a mapping that it may override by right.
    """

    def visit(node: yaml.Node, parents: tuple[yaml.Node, ...]) -> None:
        if any(node is parent for parent in parents):
            raise ConfigError(f"{source}:{_line(node)}: a value contains itself through an alias. Spell it out.")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN_TAGS:
            raise ConfigError(f"{source}:{_line(node)}: not valid YAML: the tag '{node.tag}' has no meaning here.")
        seen: set[Any] = set()
        for key_node, child in _children(node):
            if key_node is not None:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise ConfigError(f"{source}:{_line(key_node)}: a key must be plain text, not a list or mapping.")
                key = (key_node.tag, key_node.value)
                if key in seen:
                    raise ConfigError(
                        f"{source}:{_line(key_node)}: key '{key_node.value}' is given twice. Keep one of them."
                    )
                seen.add(key)
            visit(child, (*parents, node))

    visit(root, ())


def _children(node: yaml.Node) -> Iterator[tuple[yaml.Node | None, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from node.value
    elif isinstance(node, yaml.SequenceNode):
        yield from ((None, item) for item in node.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _build(loader: yaml.SafeLoader, node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:
    lines.setdefault(place, _line(node))
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)  # merged keys come first, so that the mapping's own override them
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(loader, key_node)
            lines[(*place, key)] = _line(key_node)
            result[key] = _build(loader, value_node, (*place, key), lines)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*place, index), lines) for index, item in enumerate(node.value)]
    return _scalar(loader, node)


def _scalar(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # a date of the 40th of May, an octal number with a 9
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error
