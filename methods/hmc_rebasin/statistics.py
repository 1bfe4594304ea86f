"""Running statistics of a compact posterior: for its mean network, and for its draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark import Posterior, Split, copy_of, seed_from
from methods.finetuning.statistics import reset_statistics

DRAWS = 8
BATCH_SIZE = 128


def statistics_of_mean(
    network: nn.Module, posterior: Posterior, train: Split, seed: int, batch_size: int = BATCH_SIZE
) -> dict[str, Tensor]:
    """One pass of the mean network over the training data without augmentation; empty without running statistics.

    Averages of the samples' own statistics are no substitute: those are of networks whose activations vary more.

    Raises:
        ValueError: the posterior has no mean.
    """
    mean = posterior.mean()
    if mean is None:
        raise ValueError(f"{type(posterior).__name__} has no mean network")
    return reset_statistics(network, mean, train, batch_size, seed_from(seed, "mean"))


def statistics_of_draws(
    network: nn.Module, posterior: Posterior, train: Split, seed: int, batch_size: int = BATCH_SIZE, draws: int = DRAWS
) -> dict[str, Tensor]:
    """Of the mixture of `draws` draws, one pass of each: one set that serves every later draw; empty without running
    statistics."""
    generator = torch.Generator().manual_seed(seed_from(seed, "draws"))
    each = [
        reset_statistics(network, copy_of(weights), train, batch_size, seed_from(seed, "draw", index))
        for index, weights in enumerate(posterior.draws(draws, generator))
    ]
    return mixed_statistics(each)


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
