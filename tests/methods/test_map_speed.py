"""Training by the recipe of `map` beside the loop that a user of PyTorch would write. Prints what it measures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from map_cases import context
from paired_timing import threads
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmark import Problem, Split
from methods.map.config import TrainingConfig
from methods.map.fit import fit_point
from tasks.networks.catalogue import CifarResNet, SmallDeiT, WideResNet

pytestmark = pytest.mark.benchmarks

SHAPE, CLASSES = (3, 32, 32), 10
STEPS, ROUNDS = 4, 9
SHARE = 0.97
"""Of the plain loop's throughput, at least."""


def plain_epoch(net: nn.Module, data: Split, batch: int, optimiser: str) -> None:
    """One epoch, as in any tutorial."""
    net.train()
    loader = DataLoader(TensorDataset(data.inputs, data.labels), batch_size=batch, shuffle=True)
    if optimiser == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(loader))
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()


def pair(folder: Path, net: nn.Module, batch: int, optimiser: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """One epoch of the plain loop, one of `fit_point`."""
    examples = STEPS * batch
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, *SHAPE, generator=generator)
    labels = torch.randint(CLASSES, (examples,), generator=generator)
    theirs, ours = deepcopy(net), deepcopy(net)
    config = TrainingConfig(epochs=1, batch_size=batch, optimiser=optimiser, lr=0.01 if optimiser == "sgd" else 1e-3)
    data = Split(inputs, labels)
    made = Problem(ours, lambda seed: deepcopy(net), data, None, SHAPE, CLASSES, 1)
    fresh = iter(range(10_000))

    def own_epoch() -> None:
        ctx = context(folder / str(next(fresh)))
        fit_point(ours, made, ctx, config)
        ctx.close()

    return lambda: plain_epoch(theirs, data, batch, optimiser), own_epoch


def seconds_of(epoch: Callable[[], object]) -> float:
    """Of the process, whatever else the machine does."""
    start = time.process_time()
    epoch()
    return time.process_time() - start


@pytest.mark.parametrize(
    ("name", "family", "batch", "optimiser"),
    [
        ("resnet20", CifarResNet, 64, "sgd"),
        ("wrn-16-4", WideResNet, 8, "sgd"),
        ("deit-micro", SmallDeiT, 128, "adamw"),
    ],
)
def test_an_epoch_is_as_fast_as_that_of_a_plain_loop(tmp_path, name, family, batch, optimiser):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = family().build(name, SHAPE, CLASSES)
    with threads(1):
        plain, own = pair(tmp_path, net, batch, optimiser)
        plain(), own()
        rounds = [(seconds_of(plain), seconds_of(own)) for _ in range(ROUNDS)]
    share = statistics.median(theirs / ours for theirs, ours in rounds)
    speed = STEPS * batch / statistics.median(theirs for theirs, _ in rounds)
    print(f"\n{name}, one thread: plain {speed:.0f} examples/s, ours {share:.3f} of it")
    assert share >= SHARE
