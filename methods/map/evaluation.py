"""NLL and accuracy on validation data: of a network as it stands, and of averaged predictions; how two of
them differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
    totals = torch.zeros(2, dtype=torch.float64, device=split.device)
    with evaluating(network):
        for inputs, labels in split.batches(batch_size):
            log_probs = network(inputs).double().log_softmax(dim=-1)  # (b, K)
            totals[0] -= log_probs.gather(1, labels[:, None]).sum()
            totals[1] += (log_probs.argmax(dim=-1) == labels).sum()
    nll, accuracy = (totals / len(split)).tolist()
    return Evaluation(nll, accuracy)


def evaluate_draws(
    network: nn.Module, draws: Iterable[Weights], split: Split, batch_size: int = BATCH_SIZE
) -> Evaluation:
    """Of the mean probabilities over weight samples, each used for the whole split; in eval mode."""
    return scores(predictive(network, draws, split, batch_size), split.labels)


def predictive(network: nn.Module, draws: Iterable[Weights], split: Split, batch_size: int = BATCH_SIZE) -> Tensor:
    """(n, C) log of the mean probabilities over weight samples, float32, CPU; in eval mode."""
    pool = Pool()
    for weights in draws:
        pool.add(log_probs_of(network, weights, split, batch_size))
    return pool.result().log_probs


@torch.no_grad()
def log_probs_of(network: nn.Module, weights: Weights, split: Split, batch_size: int = BATCH_SIZE) -> Tensor:
    """(n, C) float64 on the split's device, of one weight sample; in eval mode."""
    with evaluating(network):
        batches = split.batches(batch_size)
        return torch.cat([forward(network, weights, inputs).double().log_softmax(-1) for inputs, _ in batches])


def scores(log_probs: Tensor, labels: Tensor) -> Evaluation:
    """Accuracy, and NLL in nats. log_probs: (n, C)."""
    log_probs, labels = log_probs.double().cpu(), labels.cpu()
    nll = -float(log_probs.gather(1, labels[:, None]).mean())
    return Evaluation(nll, float((log_probs.argmax(-1) == labels).double().mean()))


def agreement(log_probs: Tensor, reference: Tensor) -> float:
    """Share of inputs with the same most probable class."""
    return float((log_probs.cpu().argmax(-1) == reference.cpu().argmax(-1)).double().mean())


def total_variation(log_probs: Tensor, reference: Tensor) -> float:
    """Mean over inputs of half the L1 distance of the probabilities, in 0..1."""
    return float((log_probs.double().cpu().exp() - reference.double().cpu().exp()).abs().sum(-1).mean() / 2)
