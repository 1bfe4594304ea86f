"""A point mass whose link divides the logits by a temperature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from benchmark import Fact, PointMass, on_device_of

if TYPE_CHECKING:
    from benchmark import BitReader, BitWriter


class TemperedPoint(PointMass):
    """p(y | x) = softmax(f(x; weights) / temperature). Stored as float32 weights and the temperature's exact double."""

    def __init__(
        self, weights: Mapping[str, Tensor], temperature: float, facts: Mapping[str, Fact] | None = None
    ) -> None:
        super().__init__(weights)
        self.temperature = temperature
        self._facts = dict(facts or {})

    def log_probs(self, logits: Tensor) -> Tensor:
        return (logits / self.temperature).log_softmax(dim=-1)

    def encode(self, out: BitWriter) -> None:
        super().encode(out)
        out.json("temperature", self.temperature)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> TemperedPoint:
        return cls(on_device_of(network, src.tensors("weights")), src.json("temperature"))

    def facts(self) -> dict[str, Fact]:
        """temperature, at_bound, val_nll_before, val_nll."""
        return dict(self._facts)
