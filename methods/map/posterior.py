"""A point mass that remembers how it was trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from benchmark import Fact, PointMass


class TrainedPoint(PointMass):
    """`PointMass` with the facts of its training. The facts belong to the run's row, not to the stored bytes."""

    def __init__(self, weights: Mapping[str, Tensor], facts: Mapping[str, Fact] | None = None) -> None:
        super().__init__(weights)
        self._facts = dict(facts or {})

    def facts(self) -> dict[str, Fact]:
        """Those of `methods.map.fit.PointFit`."""
        return dict(self._facts)
