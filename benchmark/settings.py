"""Settings as a user wrote them, against the Config that they are for: lists as axes, mistakes as sentences."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from benchmark.errors import nearest, unknown
from benchmark.yamlfile import Marked, Place

Model = type[BaseModel]


def expand_axes(model: Model, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every point of the matrix that `given` spans: a list is an axis, unless the field itself takes that list.

    Keys keep their order; the last axis varies fastest. Lists inside a nested model are axes, too.
    """
    yield from _expand([model], given)


def _expand(models: Sequence[Model], given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`models`: what `given` may be the settings of, more than one where a field takes a union of models."""
    fitting = _fitting(models, given)
    choices = [
        list(_values([m.model_fields[key].annotation for m in fitting if key in m.model_fields], value))
        for key, value in given.items()
    ]
    for combination in itertools.product(*choices):
        yield dict(zip(given, combination, strict=True))


def _values(types: Sequence[Any], value: Any) -> Iterator[Any]:
    """`types`: what the value may be; empty for an unknown key, which validation reports with its line."""
    models = [model for kind in types for model in _models_in(kind)]
    if isinstance(value, dict) and models:
        yield from _expand(models, value)
    elif isinstance(value, list) and value and types and not _is_one_value(types, value):
        for item in value:
            yield from _values(types, item) if isinstance(item, dict) else (item,)
    else:
        yield value


def _is_one_value(types: Sequence[Any], value: list[Any]) -> bool:
    """Whether a list is what a field takes, or what a field that takes nothing but lists was meant to be: a mistake in
    it is then reported by validation, as one in that item."""
    if any(_accepts(kind, value) for kind in types):
        return True
    only_lists = all(get_origin(kind) in (tuple, list) for kind in types)
    return only_lists and not any(
        isinstance(item, list | dict) or _accepts(kind, item) for kind in types for item in value
    )


def _accepts(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter[Any](kind).validate_python(value)
    except ValidationError:
        return False
    return True


def _models_in(kind: Any) -> Iterator[Model]:
    """The models among the alternatives of a type or of its items: of `A | B | None`, `tuple[A | B, ...]`, A and B."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    elif get_origin(kind) in (Union, UnionType, tuple):
        for alternative in get_args(kind):
            yield from _models_in(alternative)
    elif get_origin(kind) is Annotated:
        yield from _models_in(get_args(kind)[0])


def _fitting(models: Sequence[Model], given: Mapping[str, Any]) -> Sequence[Model]:
    """The models whose tags (fields of literal type, `kind: constant`) agree with `given`; all, if none does."""

    def fits(model: Model) -> bool:
        literals = {
            key: get_args(info.annotation)
            for key, info in model.model_fields.items()
            if get_origin(info.annotation) is Literal
        }
        return all(given[key] in legal for key, legal in literals.items() if isinstance(given.get(key), str))

    return [model for model in models if fits(model)] or models


def explain(
    error: ValidationError, model: Model, given: Mapping[str, Any], marked: Marked, place: Place
) -> Iterator[str]:
    """Every mistake in `given` as a sentence with place, key, value, legal values and the nearest match.

    place: where `given` stands in the file.
    """
    found: dict[Place, list[Any]] = {}
    for problem in error.errors():
        if problem["type"] == "default_factory_not_called":
            continue  # a default that depends on a value which is wrong, and reported itself
        path = _path(given, problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield _unknown_setting(model, given, path, marked.where((*place, *path)))
        else:
            found.setdefault(path, []).append(problem)
    for path, problems in found.items():  # several for one place: the alternatives of a union
        where = marked.where((*place, *path))
        what = f"{_dotted(path)} = {brief(problems[0]['input'])}: " if path else ""
        reasons = ", or ".join(dict.fromkeys(_message(problem) for problem in problems))
        yield f"{where}: {what}{reasons}{_suggestion(problems)}"


def brief(value: Any) -> str:
    """A value as it can be shown in a sentence."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _path(given: Any, loc: Iterable[str | int]) -> Place:
    """The keys and indices of pydantic's location. It names alternatives of unions, too, which no file contains."""
    path: list[str | int] = []
    for part in loc:
        if (isinstance(given, Mapping) and part in given) or (
            isinstance(given, list | tuple) and isinstance(part, int) and part < len(given)
        ):
            path.append(part)
            given = given[part]  # type: ignore[index]
    return tuple(path)


def _unknown_setting(model: Model, given: Mapping[str, Any], path: Place, where: str) -> str:
    models: Sequence[Model] = [model]
    value: Any = given
    for part in path[:-1]:
        infos = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        value = value[part]
        models = [inner for info in infos for inner in _models_in(info.annotation)] or models
    fields = {
        name
        for owner in (_fitting(models, value) if isinstance(value, Mapping) else models)
        for name in owner.model_fields
    }
    return unknown("setting", str(path[-1]), fields, f"{where}: {_dotted(path[:-1])}" if path[:-1] else where)


def _message(problem: Any) -> str:
    if problem["type"] == "missing":
        return f"'{problem['loc'][-1]}' is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _suggestion(problems: Sequence[Any]) -> str:
    """The nearest of the legal values, where pydantic lists them."""
    for problem in problems:
        context = problem.get("ctx", {})
        value = context.get("tag", problem["input"])
        legal = re.findall(r"'([^']*)'", str(context.get("expected") or context.get("expected_tags") or ""))
        if isinstance(value, str) and legal:
            near = nearest(value, legal)
            return f".{near}" if near else ""
    return ""


def _dotted(path: Place) -> str:
    return ".".join(str(part) for part in path)
