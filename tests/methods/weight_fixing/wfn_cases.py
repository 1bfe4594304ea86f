"""Networks, fits and oracle cases that the tests of `wfn` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from small_problems import context_of, problem_of, with_statistics
from torch import Tensor, nn

from benchmark import BitReader, BitWriter, Problem
from methods.probabilistic_weight_fixing.posterior import FixedPosterior
from methods.weight_fixing import WeightFixing

METHOD = WeightFixing()
QUICK: dict[str, Any] = {
    "fractions": [0.3, 0.7, 1.0],
    "rest_epochs": 2,
    "batch_size": 20,
    "lr": 1e-2,
    "delta": 0.02,
}
CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "oracles.json").read_text())["cases"]


def oracle(kind: str) -> list[dict[str, Any]]:
    """All cases of one kind."""
    found = [case for case in CASES if case["kind"] == kind]
    assert found
    return found


class Small(nn.Module):
    """A convolution, a norm with statistics, a head; a parameter out of scope."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)
        self.token = nn.Parameter(torch.zeros(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)) + self.token)
        return out


def network(seed: int = 0) -> nn.Module:
    return with_statistics(Small, seed)


def fit(
    folder: Path, made: Problem | None = None, config: dict[str, Any] | None = None, **options: Any
) -> tuple[FixedPosterior, Problem]:
    """The posterior of a fit with QUICK settings, and the problem."""
    made = made or problem_of(network(), network)
    ctx = context_of("wfn", folder, made.network, **options)
    try:
        return METHOD.fit(made, ctx, METHOD.Config(**{**QUICK, **(config or {})})), made
    finally:
        ctx.close()


def bytes_of(posterior: FixedPosterior) -> bytes:
    out = BitWriter()
    posterior.encode(out)
    return out.finish()


def decoded(data: bytes, net: nn.Module) -> FixedPosterior:
    return FixedPosterior.decode(BitReader(data), net)
