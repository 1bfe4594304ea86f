"""The spread of the factors at the start, chosen on validation data with untrained components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchmark import Split, Weights
from methods.finetuning.search import Searched, averaged_label_log_probs, lowest
from methods.parameter_sharing_ensemble.factors import Factors, write_component

GRID = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)


def search_spread(
    network: nn.Module,
    shared: Mapping[str, Tensor],
    deviates: Factors,
    rest: Mapping[str, Tensor],
    val: Split,
    batch_size: int,
) -> Searched:
    """The spread of the grid whose ensemble has the lowest NLL on the first 2048 validation examples.

    shared: W by name. deviates: standard normal; every candidate scales the same ones. rest: all other parameters and
    the buffers.
    """
    out = {name: torch.empty_like(weight) for name, weight in shared.items()}
    weights = {**rest, **out}

    def candidates(c: int) -> Iterator[Weights]:
        for spread in GRID:
            write_component(out, shared, deviates, c, spread)
            yield weights

    draws = (candidates(c) for c in range(deviates.components))
    scores = averaged_label_log_probs(network, draws, val, batch_size)
    nll = {spread: -float(score.mean()) for spread, score in zip(GRID, scores, strict=True)}
    best = lowest(nll)
    return Searched(best, nll, best in (GRID[0], GRID[-1]))
