"""A small residual network, problems and oracle cases that the tests of `last_block_ensemble` share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import small_problems
import torch
from small_problems import context_of, problem_of, with_statistics
from torch import Tensor, nn

from benchmark import Context, Problem, Split, forward, weights_of
from methods.last_block_ensemble.block import features_of

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "oracles.json").read_text())["cases"]


def oracle(kind: str) -> list[dict[str, Any]]:
    """All cases of one kind."""
    found = [case for case in CASES if case["kind"] == kind]
    assert found
    return found


class Block(nn.Module):
    """A residual block with layers of every kind that can have copies, and a scale that cannot."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(width)
        self.group_norm = nn.GroupNorm(2, width)
        self.linear = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.group_norm(self.norm(self.conv(x)).relu())
        out = self.layer_norm(self.linear(out.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x + self.scale * out


class SmallResidualNet(nn.Module):
    """A stem, two blocks, pooling and a linear head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.block1 = Block(4)
        self.block2 = Block(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.block1(self.stem(x))).mean((2, 3)))


COPIED = ("conv", "norm", "group_norm", "linear", "layer_norm")
"""Layers of a block whose weight and bias have copies."""


SHAPE = (2, 5, 5)


def network(seed: int = 0) -> nn.Module:
    """A `SmallResidualNet` with running statistics that differ from their defaults."""
    return with_statistics(SmallResidualNet, seed, SHAPE)


def split(n: int, seed: int = 0) -> Split:
    """Images for it."""
    return small_problems.split(n, seed, SHAPE)


def problem(net: nn.Module | None = None, **sizes: Any) -> Problem:
    """See `problem_of`."""
    return problem_of(net or network(), network, shape=SHAPE, **sizes)


def context(folder: Path, net: nn.Module, **options: Any) -> Context:
    """See `context_of`."""
    return context_of("last_block_ensemble", folder, net, **options)


def stacks_of(net: nn.Module, names: Sequence[str], members: int, noise: float = 0.2) -> dict[str, Tensor]:
    """`members` disturbed copies of the network's weights of these names, in its precision."""
    generator = torch.Generator().manual_seed(5)
    own = weights_of(net)
    return {
        name: own[name] + noise * torch.randn(members, *own[name].shape, generator=generator).to(own[name])
        for name in names
    }


def naive_features(net: nn.Module, draws: Sequence[Mapping[str, Tensor]], path: str, inputs: Tensor) -> Tensor:
    """Features (C, n, ...) of module `path`, one whole pass per weight sample."""
    found = []
    for weights in draws:
        with features_of(net, path) as kept:
            forward(net, weights, inputs)
        found.append(kept["features"])
    return torch.stack(found)


def hooks(net: nn.Module) -> int:
    """How many forward hooks the network's modules have."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs")
    return sum(len(getattr(module, name)) for module in net.modules() for name in names)
