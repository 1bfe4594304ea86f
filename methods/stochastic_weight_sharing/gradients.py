"""Epoch-mean gradients at the mean weights: which weights matter, and what moving a cluster would do to the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import Split, forward
from methods.finetuning.modes import only_norms_training
from methods.stochastic_weight_sharing.sharing.share import Gradients


def epoch_gradients(
    network: nn.Module, mean: Mapping[str, Tensor], rest: Mapping[str, Tensor], split: Split, batch_size: int, seed: int
) -> Gradients:
    """Gradients of the mean cross-entropy with respect to `mean`, averaged over the batches of one training pass:
    themselves and their absolute values. In eval mode; nothing is changed.

    mean: the weights that may be shared. rest: every other parameter, and the buffers.
    """
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in mean.items()}
    average = {name: torch.zeros_like(tensor) for name, tensor in mean.items()}
    magnitude = {name: torch.zeros_like(tensor) for name, tensor in mean.items()}
    steps = split.steps(batch_size)
    with only_norms_training(network, False):
        for inputs, labels in split.training_batches(batch_size, torch.Generator().manual_seed(seed)):
            loss = cross_entropy(forward(network, {**rest, **leaves}, inputs), labels)
            found = torch.autograd.grad(loss, list(leaves.values()))
            for name, gradient in zip(leaves, found, strict=True):
                average[name].add_(gradient, alpha=1 / steps)
                magnitude[name].add_(gradient.abs_(), alpha=1 / steps)
    return Gradients(average, magnitude)
