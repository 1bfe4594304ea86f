"""What a run is: the specification whose hash names its folder.

In the hash: everything that changes a number. Not in it: how the run is executed (device, threads, limits, paths),
how it was spelled (preset names, labels), and the code, which is recorded beside the result instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, field_validator

from benchmark.attacks.config import Attack
from benchmark.config import Config
from benchmark.errors import CorruptFile
from benchmark.files import canonical_json

SCHEMA = 1
HASH_DIGITS = 12


class Protocol(Config):
    """What is equal for every row of a table: how many draws, how long to train."""

    draws: int = Field(20, ge=1, description="S, weight samples averaged by a prediction")
    budget: float = Field(1.0, gt=0, description="factor on the nominal training length of every method")
    attacks: tuple[Attack, ...] = Field((), description="adversarial attacks on every prediction")
    shift: tuple[Annotated[int, Field(ge=1, le=5)], ...] = Field(
        (), description="severities, 1 to 5, at which every corruption of the task's test data is predicted as well"
    )

    @field_validator("attacks", mode="before")
    @classmethod
    def _one_need_not_be_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | dict) else given

    @field_validator("shift", mode="before")
    @classmethod
    def _one_severity_need_not_be_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, int) else given

    @field_validator("shift")
    @classmethod
    def _severities_ascend(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        """The order in which they are listed changes nothing, and so is not part of the identity."""
        if len(set(severities)) < len(severities):
            raise ValueError(f"a severity is listed twice: {list(severities)}")
        return tuple(sorted(severities))

    @field_validator("attacks")
    @classmethod
    def _labels_are_unique(cls, attacks: tuple[Attack, ...]) -> tuple[Attack, ...]:
        for index, attack in enumerate(attacks):
            if attack.label in {other.label for other in attacks[:index]}:
                raise ValueError(
                    f"two attacks are called '{attack.label}', which names their results. Change kind, norm, epsilon, "
                    "steps or adaptive of one of them, or leave it out"
                )
        return attacks

    def identity(self) -> dict[str, Any]:
        """A protocol without attacks, or without shift, has the identity that it had before there were any."""
        unused = {name for name in ("attacks", "shift") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude=unused)


def shown_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's identity as tables show it: attacks by their labels."""
    shown = dict(protocol)
    if protocol.get("attacks"):
        shown["attacks"] = ",".join(Attack(**attack).label for attack in protocol["attacks"])
    if protocol.get("shift"):
        shown["shift"] = ",".join(map(str, protocol["shift"]))
    return shown


@dataclass(frozen=True)
class Part:
    """A task, a network or a method of a run: name, version and resolved settings."""

    name: str
    version: int
    config: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {"name": self.name, "version": self.version, "config": dict(self.config)}

    def label(self, *, precise: bool = False) -> str:
        """The name with the settings. Digests are left out; `precise` shows their beginning, and the version."""

        def is_digest(value: Any) -> bool:
            return isinstance(value, str) and len(value) == 64

        shown = {
            name: f"{value[:8]}…" if is_digest(value) else value
            for name, value in sorted(self.config.items())
            if precise or not is_digest(value)
        }
        return label_of(f"{self.name} v{self.version}" if precise else self.name, shown)


@dataclass(frozen=True)
class RunSpec:
    """One cell of a study for one seed. `needs` are the ids of the runs it starts from, in the method's order.

    `given` is how the method's settings were spelled and `title` what the method is called with them (its name, if
    empty); they label the row and are not part of the identity.
    """

    task: Part
    fingerprint: str
    network: Part
    method: Part
    protocol: Mapping[str, Any]
    seed: int
    needs: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    def identity(self) -> dict[str, Any]:
        """The value that is hashed, as plain JSON types."""
        return {
            "schema": SCHEMA,
            "task": self.task.identity(),
            "fingerprint": self.fingerprint,
            "network": self.network.identity(),
            "method": self.method.identity(),
            "protocol": dict(self.protocol),
            "seed": self.seed,
            "needs": list(self.needs),
        }

    @cached_property
    def id(self) -> str:
        """`digits.resnet18.map.s0-1a2b3c4d5e6f`: readable slug and the first 48 bits of the identity's SHA-256."""
        digest = hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()
        slug = f"{self.task.name}.{self.network.name}.{self.method.name}.s{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', slug)}-{digest[:HASH_DIGITS]}"

    @property
    def components(self) -> tuple[str | int, ...]:
        """What the run's seeds are hashed from: rows of one (task, network, seed) are paired by `seed`."""
        return (self.task.name, self.network.name, self.method.name, self.seed)

    @property
    def label(self) -> str:
        """The method with the settings that were spelled out: `mean_field epochs=4`."""
        return label_of(self.title or self.method.name, self.given)

    def to_json(self) -> dict[str, Any]:
        """The content of `spec.json`."""
        return {**self.identity(), "given": dict(self.given), "title": self.title, "id": self.id}

    @classmethod
    def from_json(cls, value: Any, where: str) -> RunSpec:
        """The inverse of `to_json`; `where` names the file in errors.

        Raises:
            CorruptFile: a field is missing, of another schema, or the id does not fit the content.
        """
        try:
            if value["schema"] != SCHEMA:
                raise CorruptFile(f"{where} has schema {value['schema']}; this version reads schema {SCHEMA}.")
            spec = cls(
                task=Part(**value["task"]),
                fingerprint=value["fingerprint"],
                network=Part(**value["network"]),
                method=Part(**value["method"]),
                protocol=value["protocol"],
                seed=value["seed"],
                needs=tuple(value["needs"]),
                given=value["given"],
                title=value.get("title", ""),  # specifications of earlier versions have none
            )
            found, said = spec.id, value["id"]
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(
                f"{where} is not the specification of a run ({type(error).__name__}: {error})."
            ) from error
        if found != said:
            raise CorruptFile(f"{where} was changed by hand: its content has the id {found}, it says {said}.")
        return spec


def label_of(title: str, given: Mapping[str, Any]) -> str:
    """A row's name: the method's title and its spelled-out settings, in the order they were written."""
    return " ".join([title, *(f"{key}={short_value(value)}" for key, value in given.items())])


def short_value(value: Any) -> str:
    """A setting in one line, as a study spells it: `[4, 8]`, `{method: 2dgbnn, settings: {components: 64}}`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {short_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(short_value, value)) + "]"
    return value if isinstance(value, str) else canonical_json(value)
