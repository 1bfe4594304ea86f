"""Typed settings: the base classes of every `Config`, with presets and the part that enters a run's identity."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from benchmark.errors import unknown


class Config(BaseModel):
    """Settings of a task, a launcher or a part of another Config: frozen, typed, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def identity(self) -> dict[str, Any]:
        """What enters the run id, as plain JSON types: every value that can change a number."""
        return self.model_dump(mode="json")


class MethodConfig(Config):
    """Settings of a method. The field defaults are the preset `recommended`; `presets` holds the others.

    A preset fills the fields that are not given; a given field wins. The identity of a run holds the resolved
    values, so two spellings of the same settings are one run.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    preset: str = "recommended"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        preset = given.get("preset", "recommended")
        values = {"recommended": {}, **cls.presets}.get(preset) if isinstance(preset, str) else {}
        if values is None:
            raise ValueError(unknown("preset", preset, {"recommended", *cls.presets}))
        return {**values, **given}

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"preset"})
