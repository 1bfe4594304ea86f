"""(mu, sigma) of every weight, from whatever posterior a run starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from benchmark import ConfigError, Posterior, Weights

DRAWS = 100
BASE_SIGMA = 0.02


@runtime_checkable
class Factorised(Protocol):
    """A posterior that is a Gaussian per weight: ln sigma by name, beside `Posterior.mean`."""

    @property
    def log_sd(self) -> Mapping[str, Tensor]: ...


def gaussians_of(
    posterior: Posterior, network: nn.Module, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(mu, sigma) by name: mu of every parameter and running statistic, sigma of the parameters that have one. Exact
    for a Gaussian per weight, else the moments of the posterior's weight samples (all of a finite posterior, 100 draws
    of a continuous one), sigma with Bessel's correction.

    Raises:
        ConfigError: the posterior is a single set of weights, which has no spread.
    """
    mean = posterior.mean()
    if isinstance(posterior, Factorised) and mean is not None:
        return dict(mean), {name: psi.exp() for name, psi in posterior.log_sd.items()}
    count = DRAWS if posterior.support is None else posterior.support
    if count < 2:
        raise ConfigError(
            f"the posterior {type(posterior).__name__} is one set of weights: it has no standard deviations to share. "
            "Legal sources: methods whose posterior has a spread, or source: base."
        )
    centre, sigma = moments_of(posterior.draws(count, generator))
    return centre, {name: sigma[name] for name, _ in network.named_parameters()}


@torch.no_grad()
def moments_of(samples: Iterable[Weights]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(mean, standard deviation) by name over two or more samples, in one pass (Welford 1962); float64 inside."""
    mean: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    count = 0
    for sample in samples:
        count += 1
        for name, value in sample.items():
            if count == 1:
                mean[name], squares[name] = value.double(), torch.zeros_like(value, dtype=torch.float64)
                continue
            away = value.double() - mean[name]
            mean[name] = mean[name] + away / count
            squares[name] += away * (value.double() - mean[name])
    sd = {name: (total / (count - 1)).sqrt().float() for name, total in squares.items()}
    return {name: value.float() for name, value in mean.items()}, sd


def around_base(tensors: Mapping[str, Tensor], deviations: Mapping[str, float]) -> dict[str, Tensor]:
    """sigma = 0.02 x the standard deviation of its tensor, where there was no training."""
    return {name: torch.full_like(tensor, BASE_SIGMA * deviations[name]) for name, tensor in tensors.items()}
