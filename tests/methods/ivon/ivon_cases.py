"""A small network, its problem and learners that the tests of `ivon` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import Context, NeededRun, PointMass, Problem, Split, weights_of
from methods.finetuning.descent import PointDescent, Rate, optimiser_for
from methods.finetuning.select import Selection, select
from methods.ivon.learner import IvonLearner
from methods.mean_field.prior import Prior
from methods.mean_field.state import MeanFieldState


class SmallConvNet(nn.Module):
    """Convolution, batch norm and a linear head for images (1, 6, 6) of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def network(seed: int = 0) -> nn.Module:
    """A `SmallConvNet` with running statistics that differ from their defaults."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SmallConvNet()
        net(torch.randn(64, 1, 6, 6))
    return net.eval()


def split(n: int, seed: int = 0) -> Split:
    """Three classes told apart by the mean of the image, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    inputs = torch.randn(n, 1, 6, 6, generator=generator) + 0.5 * (labels - 1)[:, None, None, None]
    return Split(inputs, labels)


def problem(*, n: int = 60, val: int | None = 30) -> Problem:
    """`n` training examples, `val` validation examples."""
    return Problem(network(), network, split(n), split(val, 1) if val else None, (1, 6, 6), 3, 5)


def context(folder: Path, net: nn.Module | None, **options: Any) -> Context:
    """A run context whose base run is a point mass on `net`; None: without a base run."""
    base = [] if net is None else [NeededRun("map", {}, {"optimiser": "sgd", "l2": 5e-4}, PointMass(weights_of(net)))]
    return Context(folder, ("made_up", "small", "ivon", 0), needed=base, **options)


def learner_of(
    net: nn.Module,
    prior: Prior,
    rate: Rate,
    *,
    selection: Selection | None = None,
    curvature: float = 1.0,
    beta2: float = 0.999,
    seed: int = 0,
) -> IvonLearner:
    """A learner at the network's parameters, every tensor of the same starting curvature."""
    state = MeanFieldState(net, selection or select(net, "weights", train_rest=True))
    points = state.points
    descent = PointDescent(points, optimiser_for("sgd", list(points.trained.values())), rate, set(), prior.lam)
    learner = IvonLearner(net, state, prior, rate, descent, beta2=beta2, seed=seed)
    learner.start_at(dict.fromkeys(state.mu.views, curvature))
    return learner
