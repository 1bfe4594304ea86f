"""Targets whose law is known, and the perceptrons of the oracles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import Split
from methods.hmc.config import SamplingConfig
from methods.hmc.density import Density, Evaluation

ORACLES = json.loads((Path(__file__).parent / "hmc_oracles.json").read_text())


class Quadratic:
    """log density -(w - m)' A (w - m) / 2, half of it called likelihood and half of it prior."""

    temperature = 1.0

    def __init__(self, mean: Tensor, precision: Tensor) -> None:
        self.mean, self.precision = mean, precision
        self.parameters = len(mean)

    def gradient(self, states: Tensor) -> Evaluation:
        pulled = (states - self.mean) @ self.precision
        value = -0.25 * ((states - self.mean) * pulled).sum(1).double()
        return Evaluation(-pulled, value, value)


def settings(**given: Any) -> SamplingConfig:
    """Settled."""
    return SamplingConfig(**{"sampler": "hmc", "init": "random", "chains": 1, "keep": given.get("samples"), **given})


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + index) for index in range(count)]


def scales_of(network: nn.Module, s: float = 1.0) -> dict[str, float]:
    return {name: s for name, value in network.named_parameters() if value.requires_grad}


def oracle_density() -> tuple[Density, dict[str, Any]]:
    """The tanh network 2-3-2 of the oracle, 17 parameters, and the oracle."""
    oracle = ORACLES["hmc_leapfrog_tanh_2-3-2"]
    given = oracle["inputs"]
    inputs = torch.tensor(given["X"]).view(-1, 1, 1, 2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    return Density(network, Split(inputs, torch.tensor(given["y"])), scales_of(network, given["prior_std"])), oracle


def digits_like(n: int = 600, seed: int = 0) -> tuple[nn.Module, Split]:
    """A perceptron 64-16-10, 1,210 parameters, and `n` made-up images of 8 x 8."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=generator)
    centres = torch.rand(10, 1, 8, 8, generator=generator)
    inputs = (centres[labels] + 0.3 * torch.randn(n, 1, 8, 8, generator=generator)).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    return network, Split(inputs, labels)
