"""Dropout as a distribution over weights: W = M diag(z) / (1 - p), z ~ Bernoulli(1 - p) on input channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmark import Fact, Posterior, Weights, copy_of, on_device_of
from methods.mc_dropout.masks import draw_mask, mask_weight

if TYPE_CHECKING:
    from benchmark import BitReader, BitWriter


class DropoutPosterior(Posterior):
    """means: M of every parameter and buffer. channels: layer name -> input channels C, in order of execution.

    A draw is one mask per layer for all inputs, so that joint predictions are those of one network. For a single input
    it has the law of ordinary dropout at prediction time (masks per example), hence the same mean predictive.
    E[W] = M; Var[W] = M^2 p / (1 - p) elementwise; weights of one input channel of a layer are perfectly correlated.
    Biases, norms and layers that are not named are not random. Stored as float32 weights, the rate and the names.
    """

    def __init__(
        self,
        means: Mapping[str, Tensor],
        channels: Mapping[str, int],
        rate: float,
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        self.means = copy_of(means)
        self.channels = dict(channels)
        self.rate = rate
        self._facts = dict(facts or {})

    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        for _ in range(n):
            sample = dict(self.means)
            for name, channels in self.channels.items():
                weight = self.means[f"{name}.weight"]
                mask = draw_mask((channels,), self.rate, generator)
                sample[f"{name}.weight"] = mask_weight(weight, mask.to(weight.device))
            yield sample

    def mean(self) -> Weights:
        return self.means

    def encode(self, out: BitWriter) -> None:
        out.tensors("means", self.means)
        out.json("dropout", {"rate": self.rate, "channels": [[name, c] for name, c in self.channels.items()]})

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> DropoutPosterior:
        stored = src.json("dropout")
        return cls(on_device_of(network, src.tensors("means")), dict(stored["channels"]), stored["rate"])

    def facts(self) -> dict[str, Fact]:
        """Those of `PointFit`, dropped_layers and dropped_weights (how many are random)."""
        return dict(self._facts)
