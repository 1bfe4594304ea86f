"""Profiles as files: where they are looked for, and mistakes in them as sentences with file and line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from benchmark import ConfigError, nearest, unknown
from slurm.profile import OURS, Profile

Lines = Mapping[tuple[str | int, ...], int]


def profile_folders() -> tuple[Path, ...]:
    """Where profiles are looked for; the first that has a name wins: here, the user's own, the suite's examples."""
    return Path("slurm"), Path.home() / ".config/bnnbench/slurm", Path(__file__).parent / "profiles"


def find_profile(name: str) -> Path:
    """The file of a profile: `./slurm/NAME.yaml`, `~/.config/bnnbench/slurm/NAME.yaml`, then the suite's examples.

    name: of a profile; or a path, which has a slash or ends in .yaml or .yml.
    Raises:
        ConfigError: there is none; names the profiles that there are.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise ConfigError(f"profile '{name}': there is no such file.")
    for folder in profile_folders():
        if (path := folder / f"{name}.yaml").is_file():
            return path
    legal = {path.stem for folder in profile_folders() for path in folder.glob("*.yaml")}
    places = " or ".join(str(folder / f"{name}.yaml") for folder in profile_folders()[:2])
    raise ConfigError(f"{unknown('profile', name, legal)}\n  a new one goes to {places}")


def load_profile(name: str) -> Profile:
    """The profile of that name or path; see `find_profile` and `read_profile`."""
    return read_profile(find_profile(name))


def read_profile(path: Path) -> Profile:
    """The profile in a file.

    Raises:
        ConfigError: the file cannot be read, or settings in it are wrong; names file, line, value, legal values.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            given = {} if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"profile {path} cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}.") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{path}: not valid YAML: {error.reason}.") from error
    if node is None:
        return Profile()
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: a profile is a mapping, such as `partition: gpu`; this is {given!r}.")
    return _checked(given, str(path), _lines_of(node, str(path)))


def changed(profile: Profile, changes: Mapping[str, Any], source: str) -> Profile:
    """The profile with some settings replaced, by a study or the command line.

    source: who says so, for the errors: `study.yaml:14`.
    Raises:
        ConfigError: as `read_profile`.
    """
    return _checked({**profile.model_dump(exclude_unset=True), **changes}, source, {})


class _Loader(yaml.SafeLoader):
    """Only what YAML 1.2 calls a number is one: `10:00:00`, the account `0123`, `1_000` and dates stay text."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)\Z", "-+0123456789"),
    ("float", r"[-+]?(?:0|[1-9][0-9]*)?\.[0-9]+\Z", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _lines_of(root: yaml.MappingNode, source: str) -> dict[tuple[str | int, ...], int]:
    """The line of every key and item. Raises ConfigError when a key is given twice: YAML would keep the last."""
    lines: dict[tuple[str | int, ...], int] = {}

    def visit(node: yaml.Node, place: tuple[str | int, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                if inner in lines:
                    raise ConfigError(f"{source}:{key.start_mark.line + 1}: '{key.value}' is given twice. Keep one.")
                lines[inner] = key.start_mark.line + 1
                visit(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                lines[(*place, index)] = item.start_mark.line + 1
                visit(item, (*place, index))

    visit(root, ())
    return lines


def _checked(given: Mapping[str, Any], source: str, lines: Lines) -> Profile:
    try:
        return Profile.model_validate(dict(given))
    except ValidationError as error:
        problems = sorted(error.errors(), key=lambda problem: lines.get(problem["loc"][:1], 0))
        raise ConfigError("\n".join(dict.fromkeys(_sentence(p, source, lines) for p in problems))) from error


def _sentence(problem: Any, source: str, lines: Lines) -> str:
    place, value = tuple(problem["loc"]), problem["input"]
    line = next((lines[place[:cut]] for cut in range(len(place), 0, -1) if place[:cut] in lines), None)
    where = source if line is None else f"{source}:{line}"
    name = str(place[0])
    if problem["type"] == "extra_forbidden":
        if name in OURS:
            return f"{where}: setting '{name}' is unknown. Slurm's {name} is set by {OURS[name]}."
        text = unknown("setting", name, Profile.model_fields, where).split("\n")[0]
        legal = ", ".join(Profile.model_fields)  # all of them: a profile is written from this list
        return f"{text}\n  legal: {legal}\n  other options of sbatch go under additional_parameters"
    message = str(problem["msg"]).removeprefix("Value error, ")
    choices = re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
    near = nearest(value, choices) if isinstance(value, str) else ""
    dot = "." if near else ""
    return f"{where}: {name} = {value!r}: {message[0].lower()}{message[1:]}{dot}{near}"
