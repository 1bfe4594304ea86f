"""Running statistics of normalisation layers, estimated anew after a fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmark import Split, forward, seed_from
from methods.finetuning.modes import averaging, norms, only_norms_training
from methods.finetuning.points import Points

BATCHES = 100

Sampler = Callable[[torch.Generator], Mapping[str, Tensor]]
"""One draw of the Bayesian weights, by a generator on their device; empty where there are none."""


@torch.no_grad()
def average_statistics(
    network: nn.Module,
    points: Points,
    sampler: Sampler,
    split: Split,
    batch_size: int,
    seed: int,
    batches: int = BATCHES,
) -> None:
    """Replace the running statistics in `points.buffers` by their plain average over `batches` training batches, each
    seen by a weight sample of its own."""
    _reset(network, points)
    order = torch.Generator().manual_seed(seed_from(seed, "order"))
    noise = torch.Generator(split.device).manual_seed(seed_from(seed, "noise"))
    done = 0
    with only_norms_training(network, True), averaging(network):
        while done < batches:
            for inputs, _ in split.training_batches(batch_size, order):
                forward(network, {**points.tensors(), **sampler(noise)}, inputs)
                done += 1
                if done == batches:
                    break


def _reset(network: nn.Module, points: Points) -> None:
    own = {id(norm) for norm in norms(network)}
    start = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    for path, module in network.named_modules():
        if id(module) in own:
            for name, value in start.items():
                points.buffers[f"{path}.{name}".removeprefix(".")].fill_(value)


@torch.no_grad()
def reset_statistics(
    network: nn.Module, weights: Mapping[str, Tensor], split: Split, batch_size: int, seed: int
) -> dict[str, Tensor]:
    """Running statistics of `network` with these weights: plain averages over one pass, without augmentation.

    weights: every parameter; buffers in it are not used. The network is left as it was. Returns the running means and
    variances by name, float32; nothing for a network without any.
    """
    names = statistics_of(network)
    if not names:
        return {}
    parameters = {name: weights[name] for name, _ in network.named_parameters()}
    points = Points(network, (), parameters)
    plain = split.first(len(split))
    average_statistics(network, points, lambda _: parameters, plain, batch_size, seed, plain.steps(batch_size))
    return {name: points.buffers[name] for name in names}


def statistics_of(network: nn.Module) -> list[str]:
    """Names of the running means and variances."""
    own = {id(norm) for norm in norms(network)}
    paths = [path for path, module in network.named_modules() if id(module) in own]
    return [f"{path}.{name}".removeprefix(".") for path in paths for name in ("running_mean", "running_var")]
