"""One number for the width of the noise, chosen on validation data: before the fit (search) and after it (rescale).

Both compare candidates under common random numbers: draw k of every candidate is the same deviate, scaled. The score
is the negative log-likelihood of the averaged soft-max; only the label's probability is needed for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import Split, Weights
from methods.finetuning.flat import Flat, chunks
from methods.finetuning.search import Searched, averaged_label_log_probs, lowest
from methods.mean_field.config import SigmaInit
from methods.mean_field.sigma import initial_log_sd

DRAWS = 8
GRID = tuple(0.004 * 2**i for i in range(9))
FACTORS = (1 / 8, 1 / 4, 0.35, 0.5, 0.71, 1.41)
SIGNIFICANT = 2.0  # standard errors of the paired gain

Noise = Callable[[Tensor, torch.Generator], None]
"""Fills a flat tensor (D,) with the deviates of one draw."""


@dataclass(frozen=True)
class Around:
    """A network in eval mode at `mean` (the perturbed tensors) and `fixed` (all others and the buffers)."""

    network: nn.Module
    mean: Flat
    fixed: Mapping[str, Tensor]
    seed: int
    batch_size: int


def search_sigma(around: Around, init: SigmaInit, prior_log_sd: float, val: Split) -> Searched:
    """The `value` of `init` (relative_rms, constant or fan_in) with the lowest validation NLL: a grid of factors of
    2, then the best x sqrt 2 and best / sqrt 2; 8 draws over the first 2048 validation examples."""

    units = _unit_sigmas(around.mean.views, init)

    def nll_of(values: Sequence[float]) -> dict[float, float]:
        scales = [[min(value * unit, math.exp(prior_log_sd)) for unit in units] for value in values]
        scores = label_log_probs(around, standard_normal, scales, val)
        return {value: -float(score.mean()) for value, score in zip(values, scores, strict=True)}

    nll = nll_of(GRID)
    best = lowest(nll)
    at_edge = best in (GRID[0], GRID[-1])
    nll |= nll_of([best / math.sqrt(2), best * math.sqrt(2)])
    return Searched(lowest(nll), nll, at_edge)


def rescale_sigma(around: Around, log_sd: Tensor, val: Split) -> float:
    """The common factor on sigma with the lowest validation NLL, when its paired per-example gain over factor 1 is
    more than two standard errors; else 1. log_sd: flat (D,), in the order of `around.mean`."""

    factors = (1.0, *FACTORS)
    scores = label_log_probs(
        around, deviates_of(log_sd), [[factor] * len(around.mean.views) for factor in factors], val
    )
    gains = scores - scores[0]  # (7, n)
    best = int(gains.mean(dim=1).argmax())
    return factors[best] if is_significant(gains[best]) else 1.0


def is_significant(gain: Tensor) -> bool:
    """Whether paired gains (n,) have a mean of more than two standard errors; never for a single example."""
    if len(gain) < 2:
        return False
    return float(gain.mean()) > SIGNIFICANT * float(gain.std()) / math.sqrt(len(gain))


def standard_normal(flat: Tensor, generator: torch.Generator) -> None:
    """`Noise` of unit variance."""
    flat.normal_(generator=generator)


def deviates_of(log_sd: Tensor) -> Noise:
    """`Noise` of deviations exp(log_sd), flat (D,)."""

    def noise(flat: Tensor, generator: torch.Generator) -> None:
        standard_normal(flat, generator)
        for part, psi in chunks(flat, log_sd):
            part.mul_(psi.exp())

    return noise


def label_log_probs(around: Around, noise: Noise, scales: Sequence[Sequence[float]], val: Split) -> Tensor:
    """ln of the averaged probability of each label, float64 (candidates, n).

    scales: per candidate the factor on the noise of each tensor of `around.mean`. Draws outermost, candidates next,
    batches innermost: a deviate is drawn once for all candidates, weights are made once for all examples.
    """
    generator = torch.Generator(around.mean.flat.device).manual_seed(around.seed)
    deviates, weights = Flat.like(around.mean), Flat.like(around.mean)
    named = {**around.fixed, **weights.views}

    def candidates() -> Iterator[Weights]:
        for factors in scales:
            for name, factor in zip(weights.views, factors, strict=True):
                torch.add(around.mean.views[name], deviates.views[name], alpha=factor, out=weights.views[name])
            yield named

    def draws() -> Iterator[Iterator[Weights]]:
        for _ in range(DRAWS):
            noise(deviates.flat, generator)
            yield candidates()

    return averaged_label_log_probs(around.network, draws(), val, around.batch_size)


def _unit_sigmas(weights: Mapping[str, Tensor], init: SigmaInit) -> list[float]:
    """sigma of each tensor at value 1; the searchable rules are linear in the value."""
    generator = torch.Generator(next(iter(weights.values())).device)  # the searchable rules draw nothing
    initial = initial_log_sd(weights, init.model_copy(update={"value": 1.0}), math.inf, generator)
    return [math.exp(float(initial.log_sd[name])) for name in weights]
