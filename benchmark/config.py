"""Typed settings: the base classes of every `Config`, with presets and the part that enters a run's identity."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from benchmark.errors import nearest


class Config(BaseModel):
    """Settings of a task, a launcher or a part of another Config: frozen, typed, unknown keys refused.

    Numbers are finite: settings are hashed as JSON, which has no NaN and no infinity.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

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
        return {**cls.presets.get(preset, {}), **given} if isinstance(preset, str) else given

    @field_validator("preset")
    @classmethod
    def _is_a_preset(cls, preset: str) -> str:
        legal = sorted({"recommended", *cls.presets})
        if preset not in legal:
            raise ValueError(f"not a preset.{nearest(preset, legal)}\n  legal: {', '.join(legal)}")
        return preset

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"preset"})
