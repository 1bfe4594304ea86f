"""NLL and accuracy on validation data: of a network as it stands, and of averaged predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from benchmark import Pool, Split, Weights, evaluating, forward

BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluation:
    """nll: mean cross-entropy in nats. accuracy: share of correct arg-max predictions."""

    nll: float
    accuracy: float


@torch.no_grad()
def evaluate(network: nn.Module, split: Split, batch_size: int = BATCH_SIZE) -> Evaluation:
    """In eval mode and float64 from the logits on; the network is left as it was, no random number is drawn.

    The device is read once, at the end.
    """
    totals = torch.zeros(2, dtype=torch.float64, device=split.inputs.device)
    with evaluating(network):
        for inputs, labels in split.batches(batch_size):
            log_probs = network(inputs).double().log_softmax(dim=-1)  # (b, K)
            totals[0] -= log_probs.gather(1, labels[:, None]).sum()
            totals[1] += (log_probs.argmax(dim=-1) == labels).sum()
    nll, accuracy = (totals / len(split)).tolist()
    return Evaluation(nll, accuracy)


@torch.no_grad()
def evaluate_draws(
    network: nn.Module, draws: Iterable[Weights], split: Split, batch_size: int = BATCH_SIZE
) -> Evaluation:
    """Of the mean probabilities over weight samples, each used for the whole split; in eval mode."""
    pool = Pool()
    with evaluating(network):
        for weights in draws:
            batches = split.batches(batch_size)
            pool.add(torch.cat([forward(network, weights, x).double().log_softmax(-1) for x, _ in batches]))
    log_probs, labels = pool.result().log_probs.double(), split.labels.cpu()  # (n, K)
    nll = -float(log_probs.gather(1, labels[:, None]).mean())
    return Evaluation(nll, float((log_probs.argmax(-1) == labels).double().mean()))
