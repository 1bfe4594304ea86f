"""Small networks, problems and oracle cases that the tests of `parameter_sharing_ensemble` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from small_problems import context_of, problem_of, with_statistics
from torch import Tensor, nn

from benchmark import Context, Problem
from methods.parameter_sharing_ensemble.factors import Factors

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "oracles.json").read_text())["cases"]


def oracle(kind: str) -> list[dict[str, Any]]:
    """All cases of one kind."""
    found = [case for case in CASES if case["kind"] == kind]
    assert found
    return found


def double(values: Any) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


class Tokens(nn.Module):
    """A strided grouped convolution, whose places become the tokens of a linear layer, batch norm and a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2)
        self.mix = nn.Linear(6, 5, bias=False)
        self.head = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.norm(self.stem(x)).relu())
        return self.head(self.mix(x.flatten(2).mT).tanh().mean(1))


LAYERS = ("stem.weight", "grouped.weight", "mix.weight", "head.weight")


def network(seed: int = 0) -> nn.Module:
    """A `Tokens` with running statistics that differ from their defaults."""
    return with_statistics(Tokens, seed)


def factors(weights: dict[str, Tensor], components: int = 3, rank: int = 2, spread: float = 0.5) -> Factors:
    """Factors of these layers."""
    made = Factors.deviates(weights, components, rank, seed=5)
    made.spread_to(spread)
    return made


def problem(net: nn.Module | None = None, **sizes: Any) -> Problem:
    """See `problem_of`."""
    return problem_of(net or network(), network, **sizes)


def context(folder: Path, net: nn.Module, facts: dict[str, Any] | None = None, **options: Any) -> Context:
    """See `context_of`."""
    return context_of("parameter_sharing_ensemble", folder, net, facts, **options)
