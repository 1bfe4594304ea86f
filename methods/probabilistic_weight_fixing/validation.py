"""NLL and accuracy of averaged predictions, for the choice between means and draws."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from benchmark import Pool, Split, Weights, evaluating, forward
from methods.map.evaluation import Evaluation


@torch.no_grad()
def evaluate_draws(network: nn.Module, draws: Iterable[Weights], split: Split, batch_size: int) -> Evaluation:
    """Of the mean probabilities over weight samples, each used for the whole split; in eval mode."""
    pool = Pool()
    with evaluating(network):
        for weights in draws:
            batches = split.batches(batch_size)
            pool.add(torch.cat([forward(network, weights, x).double().log_softmax(-1) for x, _ in batches]))
    log_probs, labels = pool.result().log_probs.double(), split.labels.cpu()  # (n, K)
    nll = -float(log_probs.gather(1, labels[:, None]).mean())
    return Evaluation(nll, float((log_probs.argmax(-1) == labels).double().mean()))
