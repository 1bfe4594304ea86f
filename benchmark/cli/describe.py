"""The settings of one method or task, as `bnnbench list NAME` shows them: fields, defaults, what they mean, presets."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from benchmark.files import canonical_json

WIDTH = 100


def described(plugin: Any) -> dict[str, Any]:
    """Summary, settings (name, type, default, description) and presets of a plugin that has a `Config`; plain JSON."""
    config: type[BaseModel] = plugin.Config
    presets = getattr(config, "presets", {})
    return {
        "summary": inspect.cleandoc(type(plugin).__doc__ or ""),
        "settings": [
            {
                "name": name,
                "type": _annotation_text(field.annotation),
                "default": _default_text(field),
                "description": field.description or "",
            }
            for name, field in config.model_fields.items()
            if name != "preset"
        ],
        "presets": {name: config(preset=name).model_dump(mode="json", include=set(presets[name])) for name in presets},
    }


def print_described(name: str, kind: str, description: dict[str, Any]) -> None:
    """The same for people."""
    click.echo(f"{click.style(name, bold=True)}  ({kind})")
    click.echo(textwrap.indent(description["summary"], "  "))
    if description["settings"]:
        click.secho("settings", bold=True)
    for setting in description["settings"]:
        text = f"{setting['name']}: {setting['type']} = {setting['default']}"
        click.echo(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent=" " * 4))
        if setting["description"]:
            click.echo(textwrap.fill(setting["description"], WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    if description["presets"]:
        click.secho("presets", bold=True)
        click.echo("  recommended: the defaults above")
    for preset, values in description["presets"].items():
        text = ", ".join(f"{key}: {_value_text(value)}" for key, value in values.items())
        click.echo(textwrap.fill(f"{preset}: {text}", WIDTH, initial_indent="  ", subsequent_indent=" " * 6))


def _annotation_text(kind: Any) -> str:
    """The annotation without modules and without what only validation needs: `auto | float`."""
    from types import UnionType
    from typing import Annotated, Literal, Union, get_args, get_origin

    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotation_text(parts[0])
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(_annotation_text(part) for part in parts))
    if origin is Literal:
        return " | ".join(str(value) for value in parts)
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "{" + ", ".join(_key_text(name, field) for name, field in kind.model_fields.items()) + "}"
    if origin is tuple:
        return f"[{', '.join('..' if part is Ellipsis else _annotation_text(part) for part in parts)}]"
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(getattr(kind, "__name__", kind)))


def _key_text(name: str, field: FieldInfo) -> str:
    """A setting inside a setting: `low: float = -6.0`, or `kind: uniform_log` where there is one legal value."""
    kind, default = _annotation_text(field.annotation), _default_text(field)
    return f"{name}: {kind}" if field.is_required() or kind == default else f"{name}: {kind} = {default}"


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    if field.default_factory is not None:
        return "(depends on others)"
    return _value_text(field.default)


def _value_text(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value_text(item)}" for key, item in value.items()) + "}"
    return value if isinstance(value, str) else canonical_json(value)
