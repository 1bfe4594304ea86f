"""NLL and accuracy of a network as it stands, for validation during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from benchmark import Split

BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluation:
    """nll: mean cross-entropy in nats. accuracy: share of correct arg-max predictions."""

    nll: float
    accuracy: float


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside, each in its own former mode afterwards.

    Mode by mode, because a network may hold modules that stay in eval mode while it trains.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def evaluate(network: nn.Module, split: Split, batch_size: int = BATCH_SIZE) -> Evaluation:
    """In eval mode and float64 from the logits on; the network is left as it was, no random number is drawn.

    The device is read once, at the end.
    """
    totals = torch.zeros(2, dtype=torch.float64, device=split.inputs.device)
    with evaluation_mode(network):
        for inputs, labels in split.batches(batch_size):
            log_probs = network(inputs).double().log_softmax(dim=-1)  # (b, K)
            totals[0] -= log_probs.gather(1, labels[:, None]).sum()
            totals[1] += (log_probs.argmax(dim=-1) == labels).sum()
    nll, accuracy = (totals / len(split)).tolist()
    return Evaluation(nll, accuracy)
