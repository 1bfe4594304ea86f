"""Where sigma starts: initial psi = ln sigma of each tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.finetuning.flat import Flat
from methods.mean_field.config import Constant, FanIn, RelativeAbs, RelativeRms, SigmaInit, UniformLog


@dataclass(frozen=True)
class Initial:
    """log_sd: name -> psi, 0-dimensional where the whole tensor shares one number, else of the tensor's shape.
    clipped: fraction of the weights whose sigma would have been above the prior's."""

    log_sd: dict[str, Tensor]
    clipped: float

    def write_to(self, log_sd: Flat) -> None:
        """Fill `log_sd` element by element."""
        for name, psi in self.log_sd.items():
            log_sd.views[name].copy_(psi.expand_as(log_sd.views[name]))


def initial_log_sd(
    weights: Mapping[str, Tensor], init: SigmaInit, prior_log_sd: float, generator: torch.Generator
) -> Initial:
    """psi of every tensor by the rule `init`, at most `prior_log_sd` (ln s0): a posterior wider than its prior has
    no meaning. `generator` is on the weights' device and used by `uniform_log` only."""
    raw = {name: _log_sd(weight, init, generator) for name, weight in weights.items()}
    above = sum(float((psi > prior_log_sd).double().mean()) * weights[name].numel() for name, psi in raw.items())
    total = sum(weight.numel() for weight in weights.values())
    return Initial({name: psi.clamp(max=prior_log_sd) for name, psi in raw.items()}, above / max(total, 1))


def _log_sd(weight: Tensor, init: SigmaInit, generator: torch.Generator) -> Tensor:
    match init:
        case UniformLog():
            uniform = torch.rand(weight.shape, dtype=weight.dtype, device=weight.device, generator=generator)
            return uniform * (init.high - init.low) + init.low
        case RelativeAbs():
            rms = _rms(weight)
            if rms == 0:
                return _constant(weight, _fan_in_sigma(weight, init.value))
            return (weight.abs() * init.value).clamp_(min=init.floor * rms).log_()
        case RelativeRms():
            rms = _rms(weight)
            value = _given(init.value)
            return _constant(weight, value * rms if rms > 0 else _fan_in_sigma(weight, value))
        case FanIn():
            return _constant(weight, _fan_in_sigma(weight, _given(init.value)))
        case Constant():
            return _constant(weight, _given(init.value))


def _rms(weight: Tensor) -> float:
    return math.sqrt(float(weight.double().square().mean()))


def _fan_in_sigma(weight: Tensor, value: float) -> float:
    fan_in = weight.numel() / weight.shape[0] if weight.dim() > 0 else 1.0
    return value / math.sqrt(fan_in)


def _constant(weight: Tensor, sigma: float) -> Tensor:
    return torch.tensor(math.log(sigma), dtype=weight.dtype, device=weight.device)


def _given(value: float | None) -> float:
    if value is None:
        raise ValueError("sigma_init.value is not known yet; search for it first")
    return value
