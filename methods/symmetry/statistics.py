"""Running statistics of other weights than those that they were gathered with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from benchmark import Split
from methods.finetuning.modes import norms
from methods.finetuning.points import Points
from methods.finetuning.statistics import average_statistics


def reset_statistics(
    network: nn.Module, weights: Mapping[str, Tensor], split: Split, batch_size: int, seed: int
) -> dict[str, Tensor]:
    """Running statistics of `network` with these weights: plain averages over one pass, without augmentation.

    weights: every parameter; buffers in it are not used. The network is left as it was. Returns the running means and
    variances by name, float32; nothing for a network without any.
    """
    paths = [path for path, module in network.named_modules() if module in norms(network)]
    if not paths:
        return {}
    parameters = {name: weights[name] for name, _ in network.named_parameters()}
    points = Points(network, (), parameters)
    plain = split.first(len(split))
    average_statistics(network, points, lambda _: parameters, plain, batch_size, seed, plain.steps(batch_size))
    names = [f"{path}.{name}".removeprefix(".") for path in paths for name in ("running_mean", "running_var")]
    return {name: points.buffers[name] for name in names}


def mixed_statistics(each: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of a mixture of networks: the average mean, and the average variance plus the variance of the means.

    Raises:
        ValueError: there is none.
    """
    if not each:
        raise ValueError("statistics of a mixture need at least one network")
    mixed = {name: torch.stack([one[name] for one in each]).mean(0) for name in each[0]}
    for name in mixed:
        if name.endswith("running_mean"):
            means = torch.stack([one[name] for one in each])
            mixed[name.removesuffix("mean") + "var"] += means.var(0, correction=0)
    return mixed
