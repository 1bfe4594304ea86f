"""Small networks, oracles and sampling runs that the tests of stochastic gradients share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from small_problems import SHAPE, SmallWithToken, context_of, problem_of, with_statistics
from torch import Tensor, nn

from benchmark import Problem
from methods.hmc.config import SamplingConfig
from methods.hmc.stochastic import sample_stochastically
from methods.hmc.stochastic_states import StochasticResult
from methods.hmc.tiers import settled

ORACLES: dict[str, Any] = json.loads(Path(__file__).with_name("sghmc_oracles.json").read_text())
QUICK = {"sampler": "sghmc", "cycles": 2, "cycle_epochs": 5, "batch_size": 20, "lr": 0.02, "snapshots": 2}


class Perceptron(nn.Module):
    """36 inputs, 8 hidden units, three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(36, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x.flatten(1)).tanh())


def perceptron(seed: int = 0) -> nn.Module:
    return with_statistics(Perceptron, seed)


def normed(seed: int = 0) -> nn.Module:
    """A network with a batch norm."""
    return with_statistics(SmallWithToken, seed)


def problem(make: Any = perceptron, **sizes: Any) -> Problem:
    return problem_of(make(), make, shape=SHAPE, **sizes)


def scales_of(network: nn.Module, s: float = 1.0) -> dict[str, float]:
    return {name: s for name, parameter in network.named_parameters() if parameter.requires_grad}


def sample(
    folder: Path,
    made: Problem | None = None,
    *,
    scales: dict[str, float] | None = None,
    context: Any = None,
    **settings,
) -> StochasticResult:
    """Sample the small problem with `QUICK` and other settings."""
    made = made or problem()
    config = settled(SamplingConfig(**{**QUICK, **settings}), sum(p.numel() for p in made.network.parameters()), 60)
    ctx = context_of("hmc", folder, None, **(context or {}))
    try:
        return sample_stochastically(made, ctx, config, scales or scales_of(made.network))
    finally:
        ctx.close()


def network_at(result: StochasticResult, network: nn.Module, chain: int, state: int) -> nn.Module:
    """The network itself, with a stored state and its running statistics in it."""
    pieces = result.states[chain, state].split([shape.numel() for shape in result.shapes.values()])
    weights = {name: piece.view(shape) for (name, shape), piece in zip(result.shapes.items(), pieces, strict=True)}
    statistics = {name: buffer[chain, state] for name, buffer in result.buffers.items()}
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name in weights or name in statistics:
                tensor.copy_({**weights, **statistics}[name])
    return network.eval()
