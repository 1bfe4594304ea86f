"""Predictions on the data that experiments look at, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from benchmark import Pool, Split, Weights, evaluating, forward
from methods.hmc_rebasin.inputs import Material
from methods.map.evaluation import Evaluation

BATCH_SIZE = 256


@torch.no_grad()
def log_probs_of(network: nn.Module, weights: Mapping[str, Tensor], split: Split) -> Tensor:
    """(n, C) float64 on the split's device, in eval mode."""
    with evaluating(network):
        batches = split.batches(BATCH_SIZE)
        return torch.cat([forward(network, weights, inputs).double().log_softmax(-1) for inputs, _ in batches])


def predictive(network: nn.Module, draws: Iterable[Weights], split: Split) -> Tensor:
    """(n, C) log of the mean probabilities over weight samples, float32, CPU."""
    pool = Pool()
    for weights in draws:
        pool.add(log_probs_of(network, weights, split))
    return pool.result().log_probs


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


def data_name(material: Material) -> str:
    """`val`; `train` where there are no validation data. Facts begin with it."""
    return "train" if material.problem.val is None else "val"


def data_title(material: Material) -> str:
    """The same for readers."""
    return "training data" if material.problem.val is None else "validation data"
