"""Small networks, problems and oracle cases that the tests of `mean_field` share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_problems import context_of, problem_of, with_statistics
from torch import Tensor, nn

from benchmark import Context, Problem
from methods.finetuning.descent import Descent, PointDescent, optimiser_for
from methods.finetuning.modes import only_norms_training
from methods.finetuning.select import Selection, select
from methods.finetuning.step import Step
from methods.mean_field.estimators.choose import Name, choose_estimator
from methods.mean_field.learner import MeanFieldLearner
from methods.mean_field.prior import Prior
from methods.mean_field.state import MeanFieldState
from methods.optimisers import Adam, Group
from methods.precision import Precision

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "oracles.json").read_text())["cases"]


def oracle(kind: str) -> list[dict[str, Any]]:
    """All cases of one kind."""
    found = [case for case in CASES if case["kind"] == kind]
    assert found
    return found


def oracle_of(identifier: str) -> dict[str, Any]:
    """One case by its name."""
    return next(case for case in CASES if case["id"] == identifier)


def double(values: Any) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


class SmallConvNet(nn.Module):
    """Convolution, batch norm, dropout and a linear head; 10 + 8 + 8 + 8 tensors of mixed kinds."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(self.conv(x)).relu().mean((2, 3))))


def network(seed: int = 0) -> nn.Module:
    """A `SmallConvNet` with running statistics that differ from their defaults."""
    return with_statistics(SmallConvNet, seed)


def problem(net: nn.Module | None = None, **sizes: Any) -> Problem:
    """See `problem_of`."""
    return problem_of(net or network(), network, **sizes)


def context(folder: Path, net: nn.Module, facts: dict[str, Any] | None = None, **options: Any) -> Context:
    """See `context_of`."""
    return context_of("mean_field", folder, net, facts, **options)


def recommended_step(
    base: nn.Module, examples: int, estimator: Name = "shared"
) -> tuple[Callable[[Tensor, Tensor], float], MeanFieldState]:
    """A step as `recommended` takes it but for the rates, in batches of `examples`, and what it trains."""
    state = MeanFieldState(base, select(base, "weights", train_rest=True))
    state.psi.flat.fill_(-6.0)
    means, points = list(state.mu.views.values()), list(state.points.trained.values())
    prior = Prior(5e-4, 50_000)
    learner = MeanFieldLearner(
        base,
        state,
        prior,
        choose_estimator(estimator, state, torch.Generator().manual_seed(0), examples),
        PointDescent(state.points, optimiser_for("sgd", points), lambda t: 1e-3, set(), prior.lam),
        Descent(optimiser_for("sgd", means), lambda t: 1e-3),
        Descent(Adam([Group([state.psi.flat])], eps=1e-12), lambda t: 1e-4),
    )
    step = Step(learner, micro_batch=None, precision=Precision("fp32", torch.device("cpu")))

    def run(inputs: Tensor, labels: Tensor) -> float:
        with only_norms_training(base, True):
            return float(step(inputs, labels, 0))

    return run, state


class Small:
    """A step on a small network, and what the tests look at."""

    def __init__(
        self,
        net: nn.Module,
        *,
        travel_rate: float | None = 1e-2,
        selection: Selection | None = None,
        psi: float = -2.0,
        decaying: set[str] | None = None,
        estimator: str = "shared",
        micro_batch: int | None = None,
        precision: str = "fp32",
        **options,
    ) -> None:
        self.net = net
        self.state = state = MeanFieldState(net, selection or select(net, "weights", train_rest=True))
        state.psi.flat.fill_(psi)
        self.prior = Prior(5e-3, 60)
        self.learner = MeanFieldLearner(
            net,
            state,
            self.prior,
            choose_estimator(estimator, state, torch.Generator().manual_seed(5), micro_batch or 60),
            PointDescent(
                state.points,
                optimiser_for("sgd", list(state.points.trained.values())),
                lambda t: 0.05,
                {"head.weight", "conv.weight"} if decaying is None else decaying,
                self.prior.lam,
            ),
            Descent(optimiser_for("sgd", list(state.mu.views.values())), lambda t: 0.05),
            None if travel_rate is None else Descent(Adam([Group([state.psi.flat])], eps=1e-12), lambda t: travel_rate),
            **options,
        )
        self.step = Step(self.learner, micro_batch=micro_batch, precision=Precision(precision, torch.device("cpu")))

    def __call__(self, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        return self.step(inputs, labels, t)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a step may change."""
        points = self.state.points
        return {"mu": self.state.mu.flat, "psi": self.state.psi.flat, **points.trained, **points.buffers}
