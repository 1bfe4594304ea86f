"""Fits of the methods that fix weights to few values, and networks of unusual layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from small_problems import context_of, problem_of, small_with_token, with_statistics
from torch import Tensor, nn

from benchmark import BitReader, Method, Problem
from methods.fixed_weights.posterior import FixedPosterior
from methods.fixed_weights.scope import scope_of
from methods.probabilistic_weight_fixing import ProbabilisticWeightFixing
from methods.probabilistic_weight_fixing.passes import passes_of
from methods.weight_fixing import WeightFixing
from methods.weight_fixing.candidates import grid_bits
from methods.weight_fixing.schedule import Schedule
from methods.weight_fixing.scope import wfn_scope


@dataclass(frozen=True)
class Fits:
    """A method with settings by which it fits in a moment.

    scope: names of what is fixed. bits: b of the grid that values are on. lengths: steps of every pass.
    """

    method: Method
    quick: dict[str, Any]
    scope: Callable[[nn.Module], Sequence[str]]
    bits: Callable[[Any], int]
    lengths: Callable[[Any, Problem], list[int]]

    def config(self, given: dict[str, Any] | None = None) -> Any:
        return self.method.Config(**{**self.quick, **(given or {})})

    def fit(
        self, folder: Path, made: Problem | None = None, config: dict[str, Any] | None = None, **options: Any
    ) -> tuple[FixedPosterior, Problem]:
        """The posterior of a fit with quick settings, and the problem."""
        made = made or problem_of(small_with_token(), small_with_token)
        ctx = context_of(self.method.name, folder, made.network, **options)
        try:
            return self.method.fit(made, ctx, self.config(config)), made
        finally:
            ctx.close()


PWFN = Fits(
    ProbabilisticWeightFixing(),
    {"fractions": [0.3, 0.7, 1.0], "rest_epochs": 2, "start_fraction": 0.4, "batch_size": 20},
    scope=lambda net: scope_of(net, "weights_and_biases").bayesian,
    bits=lambda config: config.b,
    lengths=lambda config, made: [one.steps for one in passes_of(config, made)],
)
WFN = Fits(
    WeightFixing(),
    {"fractions": [0.3, 0.7, 1.0], "rest_epochs": 2, "batch_size": 20, "lr": 1e-2, "delta": 0.02},
    scope=lambda net: wfn_scope(net, True).bayesian,
    bits=lambda config: grid_bits(config.delta),
    lengths=lambda config, made: Schedule(config, made).lengths,
)


def decoded(data: bytes, net: nn.Module) -> FixedPosterior:
    return FixedPosterior.decode(BitReader(data), net)


def plain(seed: int = 0) -> nn.Module:
    """A perceptron, without statistics."""
    return with_statistics(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)), seed)


class Varied(nn.Module):
    """Depthwise and dilated convolutions, attention, tied weights, a bias of one element, tensors of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, dilation=2, padding=2, padding_mode="reflect")
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.norm = nn.LayerNorm(4)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.gate, self.head = nn.Linear(4, 1), nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)
        nn.init.zeros_(self.stem.bias)
        with torch.no_grad():
            self.head.weight[:, 0] = 0

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.depthwise(self.stem(x)).flatten(2).permute(2, 0, 1)
        mixed = self.norm(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(0))
        out: Tensor = self.head(self.two(self.one(mixed).relu()) * self.gate(mixed))
        return out


def varied(seed: int = 0) -> nn.Module:
    return with_statistics(Varied, seed)
