"""Settings of `map_quantised`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, JsonValue, model_validator

from benchmark import Config, MethodConfig

MOST_COMPONENTS = 65_535


class RunOf(Config):
    """Another run of the same task, network and seed."""

    method: str = Field(description="its method")
    settings: dict[str, JsonValue] = Field({}, description="the method's settings, as in a study")


class MapQuantisedConfig(MethodConfig):
    """How many values the weights may take: as given, or as many as fit into the file of another run."""

    components: int | None = Field(256, ge=1, le=MOST_COMPONENTS, description="K, distinct values; None with bytes_of")
    bytes_of: RunOf | None = Field(
        None,
        description=(
            "in place of components: {method: NAME, settings: {...}}, the run of equal bytes; K is the largest number "
            "of values whose file is not longer than the file of that run"
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _bytes_stand_in_for_components(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("bytes_of") is not None:
            return {"components": None, **given}
        return given

    @model_validator(mode="after")
    def _one_of_the_two(self) -> MapQuantisedConfig:
        if (self.components is None) == (self.bytes_of is None):
            found = "neither" if self.components is None else "both"
            raise ValueError(
                f"components and bytes_of: {found} given; give exactly one of the two, components 1..{MOST_COMPONENTS} "
                "or bytes_of: {method: NAME, settings: {...}}"
            )
        return self
