"""Two posteriors that many methods return: one set of weights, and a uniform mixture of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmark.contracts import Posterior, Weights
from benchmark.weights import copy_of, on_device_of

if TYPE_CHECKING:
    from benchmark.compression import BitReader, BitWriter


class PointMass(Posterior):
    """All mass on one set of weights: the deterministic network. Stored as float32, bit-exact."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = copy_of(weights)

    @property
    def support(self) -> int:
        return 1

    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        for _ in range(n):
            yield self.weights

    def mean(self) -> Weights:
        return self.weights

    def encode(self, out: BitWriter) -> None:
        out.tensors("weights", self.weights)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> PointMass:
        return cls(on_device_of(network, src.tensors("weights")))


class WeightSamples(Posterior):
    """A uniform mixture of M sets of weights: an ensemble, or the stored samples of a chain. Bit-exact float32.

    `draws(M)` yields every member in order; fewer are the first ones, more start over.
    """

    def __init__(self, members: Sequence[Mapping[str, Tensor]]) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = [copy_of(member) for member in members]

    @property
    def support(self) -> int:
        return len(self.members)

    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        for index in range(n):
            yield self.members[index % len(self.members)]

    def encode(self, out: BitWriter) -> None:
        out.json("members", len(self.members))
        for index, member in enumerate(self.members):
            out.tensors(f"member.{index}", member)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> WeightSamples:
        stored = [src.tensors(f"member.{index}") for index in range(src.json("members"))]
        return cls([on_device_of(network, member) for member in stored])
