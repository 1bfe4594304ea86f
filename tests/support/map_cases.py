"""Small trainings of `map`, from start to end and in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import Context, Problem, Split
from benchmark.errors import Interrupted
from methods.map import Map
from methods.map.posterior import TrainedPoint

SHAPE = (1, 4, 4)


def perceptron(seed: int = 0) -> nn.Module:
    """Without statistics of the batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def convolutional(seed: int = 0) -> nn.Module:
    """With statistics of the batch and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(64, 3),
        )


def noise(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation."""
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def split(n: int, seed: int, augment: Any = None) -> Split:
    """Three classes told apart by the mean of the image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return Split(torch.randn(n, *SHAPE, generator=generator) + labels.view(-1, 1, 1, 1), labels, augment)


def problem(build: Any = perceptron, *, n: int = 40, val: bool = True, augment: Any = noise) -> Problem:
    """`n` training examples, 30 validation examples."""
    return Problem(build(0), build, split(n, 0, augment), split(30, 1) if val else None, SHAPE, 3, 5)


def context(folder: Path, **options: Any) -> Context:
    """The context of one run."""
    return Context(folder, ("task", "net", "map", 0), **options)


def fit(folder: Path, config: dict[str, Any], **changes: Any) -> TrainedPoint:
    """Trained without a stop. changes: of the problem."""
    ctx = context(folder)
    try:
        return Map().fit(problem(**changes), ctx, Map.Config(**{"epochs": 2, "batch_size": 16, **config}))
    finally:
        ctx.close()


def fit_in_pieces(folder: Path, config: dict[str, Any], **changes: Any) -> tuple[TrainedPoint, int]:
    """Stopped at every offer and resumed; how often that was."""
    stops = 0
    while True:
        ctx = context(folder, stop_requested=lambda: True, checkpoint_seconds=0)
        try:
            fitted = Map().fit(problem(**changes), ctx, Map.Config(**{"epochs": 2, "batch_size": 16, **config}))
            return fitted, stops
        except Interrupted:
            stops += 1
        finally:
            ctx.close()


def distance(a: TrainedPoint, b: TrainedPoint) -> float:
    """Largest difference of any weight or statistic."""
    return max(float((a.weights[name] - b.weights[name]).abs().max()) for name in a.weights)


def same(a: TrainedPoint, b: TrainedPoint) -> bool:
    """Bit for bit."""
    return all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
