"""Runs of `hmc` on problems that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from small_problems import SHAPE, context_of, problem_of
from torch import nn

from benchmark import Context, Problem
from methods.hmc import Hmc
from methods.hmc.config import SamplingConfig
from methods.hmc.posterior import ChainSamples

FULL = {"sampler": "hmc", "chains": 2, "burn_in": 12, "samples": 8, "keep": 4, "max_leapfrog": 8}
STOCHASTIC = {
    "sampler": "sghmc",
    "chains": 1,
    "cycles": 2,
    "cycle_epochs": 3,
    "snapshots": 3,
    "batch_size": 20,
    "explore": 0.5,
}


def perceptron(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3))


def normed(seed: int = 0) -> nn.Module:
    """With batch norm."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )


def problem(build: Any = perceptron, **options: Any) -> Problem:
    return problem_of(build(), build, shape=SHAPE, **options)


def run(
    folder: Path,
    made: Problem | None = None,
    facts: dict[str, Any] | None = None,
    ctx: Context | None = None,
    **given: Any,
) -> ChainSamples:
    """The fitted posterior."""
    made = made or problem()
    settings = SamplingConfig(**{**FULL, **given})
    base = made.network if settings.init == "map" or facts is not None else None
    ctx = ctx or context_of("hmc", folder, base, facts)
    try:
        return Hmc().fit(made, ctx, settings)
    finally:
        ctx.close()
