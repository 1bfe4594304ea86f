"""The attack itself: steps of gradient ascent on the first test examples, in micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks import gradient as exact
from benchmark.attacks.config import Attack
from benchmark.attacks.gradient import Victim
from benchmark.attacks.rules import Bounds, length, random_start, steepest, with_momentum
from benchmark.data import Split
from benchmark.predict import own_score
from benchmark.weights import evaluating

BATCH_SIZE = 128
"""Examples per backward pass, whose activations are all in memory."""

Ascended = Callable[[Tensor, Tensor], Tensor]
"""(inputs, labels) -> gradient with respect to the inputs."""


@dataclass(frozen=True)
class Attacked:
    """inputs: (n, C, H, W), the first n = min(examples, len) of the set, attacked. evaded: the detection score that
    an adaptive attack lowered (`own`, `mi` or `entropy`), None for a plain one."""

    inputs: Tensor
    evaded: str | None


def attack_examples(
    attack: Attack,
    victim: Victim,
    clean: Split,
    input_range: tuple[Tensor, Tensor],
    generator: torch.Generator,
    batch_size: int = BATCH_SIZE,
) -> Attacked:
    """Attack the first `attack.examples` of `clean`, white box: by the gradient of what the prediction averages.

    Ascends the NLL of the averaged soft-max; an adaptive attack the NLL minus the detection score, which is the
    posterior's own, else the mutual information of the draws, else (one draw) the entropy of the prediction. What is
    returned stays within epsilon of the clean examples and within `input_range`, black and white (C,). `generator`
    (CPU) decides random starts. The network is left as it was.
    """
    chosen = clean.first(attack.examples)
    device = chosen.device
    black, white = (end.to(device, torch.float32).view(-1, 1, 1) for end in input_range)
    start = torch.zeros(chosen.shape)
    if attack.kind == "pgd":
        start = random_start(attack, torch.Size(chosen.shape), generator)
    parts = []
    with evaluating(victim.network):
        evaded = _evaded(victim, chosen.first(1).inputs) if attack.adaptive else None
        ascended = _ascended(victim, evaded)
        for (inputs, labels), begin in zip(chosen.batches(batch_size), start.split(batch_size), strict=True):
            bounds = Bounds(attack, inputs, black, white)
            parts.append(_ascend(bounds, ascended, labels, begin.to(device=device, dtype=inputs.dtype)))
    return Attacked(torch.cat(parts), evaded)


def _evaded(victim: Victim, example: Tensor) -> str:
    with torch.no_grad():
        own = own_score(victim.network, victim.posterior, victim.draws, example)
    return "own" if own is not None else "mi" if len(victim.draws) > 1 else "entropy"


def _ascended(victim: Victim, evaded: str | None) -> Ascended:
    if evaded == "own":
        return lambda inputs, labels: (
            exact.gradient(victim, inputs, labels, exact.nll) - exact.score_gradient(victim, inputs)
        )
    objectives = {None: exact.nll, "mi": exact.nll_without_mutual_information, "entropy": exact.nll_without_entropy}
    return lambda inputs, labels: exact.gradient(victim, inputs, labels, objectives[evaded])


def _ascend(bounds: Bounds, ascended: Ascended, labels: Tensor, start: Tensor) -> Tensor:
    attack = bounds.attack
    step = length(attack, attack.step_size, bounds.inputs)
    perturbation = bounds.project(start)
    momentum = torch.zeros_like(start, dtype=torch.float64)
    for _ in range(attack.steps):
        slope = ascended(bounds.attacked(perturbation), labels) * bounds.scale  # per unit of white - black
        slope = slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # no direction is no move, not a ruined example
        if attack.kind == "mim":
            slope = momentum = with_momentum(momentum, slope)
        perturbation = bounds.project((perturbation + step * steepest(attack, slope)).to(start.dtype))
    return bounds.attacked(perturbation)
