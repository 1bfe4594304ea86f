"""Problems that a small network learns in a moment, and the context of a method that starts from a base run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmark import (
    BitReader,
    BitWriter,
    Context,
    Method,
    NeededRun,
    PointMass,
    Posterior,
    Problem,
    Split,
    load_into,
    weights_of,
)
from benchmark.predict import predict
from methods.map import Map
from tasks.digits import Digits
from tasks.networks.catalogue import Mlp

SHAPE = (1, 6, 6)
Build = Callable[[int], nn.Module]


def with_statistics(make: Callable[[], nn.Module], seed: int, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    """A network in eval mode, initialised from `seed`, whose running statistics differ from their defaults."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make()
        net(torch.randn(64, *shape))
    return net.eval()


class SmallWithToken(nn.Module):
    """A convolution, a norm with statistics, a head; a parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)
        self.token = nn.Parameter(torch.zeros(1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)) + self.token)
        return out


def small_with_token(seed: int = 0) -> nn.Module:
    """A `SmallWithToken` with running statistics that differ from their defaults."""
    return with_statistics(SmallWithToken, seed)


def bytes_of(posterior: Posterior) -> bytes:
    """The posterior as it is stored."""
    out = BitWriter()
    posterior.encode(out)
    return out.finish()


def told(posterior: Posterior) -> dict[str, Any]:
    """The facts but for the times."""
    return {name: value for name, value in posterior.facts().items() if not name.startswith("seconds")}


def history(folder: Path, event: str | None = None) -> list[dict[str, Any]]:
    """Records of a fit, without times; only those of one event."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if not key.startswith("seconds")}
        for record in records
        if event is None or record.get("event") == event
    ]


def split(n: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Split:
    """Three classes told apart by the mean of the image, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    inputs = torch.randn(n, *shape, generator=generator) + 0.5 * (labels - 1)[:, None, None, None]
    return Split(inputs, labels)


def problem_of(
    net: nn.Module, build: Build, *, n: int = 60, val: int | None = 30, shape: tuple[int, int, int] = SHAPE
) -> Problem:
    """`n` training examples, `val` validation examples."""
    return Problem(net, build, split(n, 0, shape), split(val, 1, shape) if val else None, shape, 3, 5)


def context_of(
    method: str, folder: Path, net: nn.Module | None, facts: dict[str, Any] | None = None, **options: Any
) -> Context:
    """A run context whose base run is a point mass on `net`; None: without a base run."""
    facts = {"optimiser": "sgd", "l2": 5e-4} if facts is None else facts
    base = [] if net is None else [NeededRun("map", {}, facts, PointMass(weights_of(net)))]
    return Context(folder, ("made_up", "small", method, 0), needed=base, **options)


def digits_nlls(folder: Path, method: Method, config: Any, *, base_epochs: int) -> tuple[float, float, float]:
    """Test NLL of a small perceptron on digits: of the base run, of the fitted posterior, of the decoded one."""
    task, settings = Digits(), Digits.Config()
    info = task.info(settings)
    train, val, test = (task.load(settings, name) for name in ("train", "val", "test"))

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Mlp().build("mlp-64", info.input_shape, info.n_classes)

    made = Problem(build(0), build, train, val, info.input_shape, info.n_classes, 20)

    def nll(posterior: Posterior) -> float:
        log_probs = predict(made.network, posterior, test, 20, torch.Generator().manual_seed(0)).log_probs
        return -float(log_probs[torch.arange(len(test)), test.labels].double().mean())

    base = Map().fit(made, Context(folder / "map", ("digits", "mlp-64", "map", 0)), Map.Config(epochs=base_epochs))
    load_into(made.network, base.mean())
    run = NeededRun("map", {}, base.facts(), base)
    ctx = Context(folder / method.name, ("digits", "mlp-64", method.name, 0), needed=[run])
    posterior = method.fit(made, ctx, config)
    out = BitWriter()
    posterior.encode(out)
    decoded = method.posterior_type().decode(BitReader(out.finish()), made.network)
    return nll(base), nll(posterior), nll(decoded)
