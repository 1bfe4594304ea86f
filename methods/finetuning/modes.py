"""Train and eval modes of a network's modules during a fit: batch statistics, but no dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

Normalisation = Literal["train", "frozen", "reestimate", "none"]
SMALLEST_BATCH = 16
"""Examples per forward pass below which batch statistics are too noisy to train with."""


def norms(network: nn.Module) -> list[_NormBase]:
    """The modules that keep running statistics."""
    return [module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats]


def resolve_bn(network: nn.Module, bn: Literal["train", "frozen", "reestimate"], examples: int) -> Normalisation:
    """How normalisation really runs: `none` without running statistics, `frozen` below 16 examples per pass."""
    if not norms(network):
        return "none"
    return "frozen" if examples < SMALLEST_BATCH else bn


@contextmanager
def only_norms_training(network: nn.Module, norms_training: bool) -> Iterator[None]:
    """Inside, normalisation uses batch statistics (or running ones, if not `norms_training`), and every other module
    is in eval mode: dropout and stochastic depth would be a second source of noise beside the weights'. Afterwards
    each module has its mode back; nothing else of the network is touched."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    if norms_training:
        for norm in norms(network):
            norm.training = True
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def averaging(network: nn.Module) -> Iterator[None]:
    """Inside, running statistics are plain averages over batches instead of exponential ones."""
    momenta = [(norm, norm.momentum) for norm in norms(network)]
    for norm, _ in momenta:
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
