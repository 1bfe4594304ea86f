"""What a metric is, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

Direction = Literal["up", "down", "zero", "none"]
State = Literal["ok", "inf", "na", "failed"]


@dataclass(frozen=True)
class Metric:
    """The definition of one number. A changed definition raises `version`, never the name.

    `needs` names the inputs, in the vocabulary of the module that calls `compute`; `range` is inclusive and may hold
    infinity; `reference` is the publication that the definition follows.
    """

    name: str
    version: int
    unit: str
    direction: Direction
    range: tuple[float, float]
    needs: tuple[str, ...]
    reference: str = field(default="", kw_only=True)
    compute: Callable[..., Value] = field(kw_only=True)


@dataclass(frozen=True)
class Value:
    """One metric's result in one of four states; built by the class methods.

    `ok`: a finite number. `inf`: the definition gives infinity. `na`: the question has no meaning here. `failed`: there
    should be a number and there is none; `reason` says why for the last two. `n`: samples behind the value. `se`:
    test-set standard error of a per-sample mean. `extra`: details as JSON-ready numbers, texts, lists and dicts.

    Raises:
        ValueError: the fields contradict the state, or a number is NaN or infinite.
    """

    state: State
    value: float | None = None
    n: int | None = None
    se: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.state not in get_args(State):
            raise ValueError(f"state '{self.state}' is unknown; legal: {', '.join(get_args(State))}")
        if (self.state == "ok") != (self.value is not None):
            raise ValueError(f"state '{self.state}' with value {self.value}: exactly the state 'ok' carries a value")
        if (self.state in ("na", "failed")) != bool(self.reason):
            raise ValueError(f"state '{self.state}' with reason {self.reason!r}: exactly 'na' and 'failed' have one")
        for name, number in (("value", self.value), ("se", self.se)):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"the {name} is {number}; a stored number is finite")

    @classmethod
    def ok(
        cls, value: float, n: int | None = None, se: float | None = None, extra: Mapping[str, Any] | None = None
    ) -> Self:
        """A finite number."""
        return cls("ok", float(value), n, se, _plain(extra or {}))

    @classmethod
    def from_samples(cls, samples: NDArray[Any], extra: Mapping[str, Any] | None = None) -> Self:
        """The mean of per-sample values (n,) and its standard error, ddof 1; no standard error for n = 1.

        >>> Value.from_samples(np.array([1.0, 2.0, 3.0]))
        Value(state='ok', value=2.0, n=3, se=0.5773502691896258, extra={}, reason=None)
        """
        samples = np.asarray(samples, dtype=np.float64)
        n = len(samples)
        se = float(samples.std(ddof=1)) / math.sqrt(n) if n > 1 else None
        return cls.ok(float(samples.mean()), n, se, extra)

    @classmethod
    def infinite(cls, n: int | None = None, extra: Mapping[str, Any] | None = None) -> Self:
        """The definition gives plus infinity, a legal result that ranks after every finite one."""
        return cls("inf", None, n, None, _plain(extra or {}))

    @classmethod
    def na(cls, reason: str) -> Self:
        """The question has no meaning for this method or task; decided by rule, before running."""
        return cls("na", reason=reason)

    @classmethod
    def failed(cls, reason: str) -> Self:
        """There should be a number and there is none."""
        return cls("failed", reason=reason)

    def to_json(self, metric: Metric) -> dict[str, Any]:
        """The JSON object of a result file; keys without content are left out.

        >>> metric = Metric("half", 1, "", "none", (0, 1), (), compute=lambda: Value.ok(0.5, n=2))
        >>> metric.compute().to_json(metric)
        {'metric': 'half', 'version': 1, 'state': 'ok', 'value': 0.5, 'n': 2}
        """
        record = {
            "metric": metric.name,
            "version": metric.version,
            "state": self.state,
            "value": self.value,
            "n": self.n,
            "se": self.se,
            "extra": _plain(self.extra) or None,
            "reason": self.reason,
        }
        return {key: content for key, content in record.items() if content is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; the metric's name and version stay with the caller."""
        return cls(
            record["state"],
            record.get("value"),
            record.get("n"),
            record.get("se"),
            record.get("extra", {}),
            record.get("reason"),
        )


def _plain(content: Any) -> Any:
    """`content` with numpy's arrays and scalars replaced by Python's, refusing what JSON cannot hold."""
    if isinstance(content, Mapping):
        return {str(key): _plain(item) for key, item in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(item) for item in content]
    if isinstance(content, np.ndarray):
        return _plain(content.tolist())
    if isinstance(content, np.generic):
        return _plain(content.item())
    if isinstance(content, float) and not math.isfinite(content):
        raise ValueError(f"extra holds {content}, which JSON cannot hold; use None")
    return content
