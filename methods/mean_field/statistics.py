"""Running statistics of normalisation layers, estimated anew after a fit."""

from __future__ import annotations

import torch
from torch import nn

from benchmark import Split, forward, seed_from
from methods.mean_field.flat import Flat
from methods.mean_field.modes import averaging, norms, only_norms_training
from methods.mean_field.state import MeanFieldState
from methods.mean_field.step import perturb

BATCHES = 100


@torch.no_grad()
def average_statistics(network: nn.Module, state: MeanFieldState, split: Split, batch_size: int, seed: int) -> None:
    """Replace the running statistics in `state.buffers` by their plain average over 100 training batches, each seen
    by a weight sample of its own (the means, where there is no Bayesian parameter)."""
    _reset(network, state)
    order = torch.Generator().manual_seed(seed_from(seed, "order"))
    noise = torch.Generator(state.mu.flat.device).manual_seed(seed_from(seed, "noise"))
    sample = Flat.like(state.mu)
    weights = {**sample.views, **state.trained, **state.fixed, **state.buffers}
    done = 0
    with only_norms_training(network, True), averaging(network):
        while done < BATCHES:
            for inputs, _ in split.training_batches(batch_size, order):
                perturb(sample.flat.normal_(generator=noise), state.mu.flat, state.psi.flat)
                forward(network, weights, inputs)
                done += 1
                if done == BATCHES:
                    break


def _reset(network: nn.Module, state: MeanFieldState) -> None:
    own = {id(norm) for norm in norms(network)}
    start = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    for path, module in network.named_modules():
        if id(module) in own:
            for name, value in start.items():
                state.buffers[f"{path}.{name}".removeprefix(".")].fill_(value)
