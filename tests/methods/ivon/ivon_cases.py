"""A small network, its problem and learners that the tests of `ivon` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_problems import context_of, problem_of, with_statistics
from torch import Tensor, nn

from benchmark import Context, Problem
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
    return with_statistics(SmallConvNet, seed)


def problem(**sizes: Any) -> Problem:
    """See `problem_of`."""
    return problem_of(network(), network, **sizes)


def context(folder: Path, net: nn.Module | None, **options: Any) -> Context:
    """See `context_of`."""
    return context_of("ivon", folder, net, **options)


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
