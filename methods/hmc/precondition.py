"""Inverse masses from second moments of the gradient, as RMSProp has them (Li et al. 2016, arXiv 1512.07666)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmark import ConfigError
from methods.hmc.config import SamplingConfig
from methods.map.recipe import has_layer_norm

DECAY = 0.99
LEAST_ROOT = 1e-7


def inverse_masses(second_moments: Tensor) -> Tensor:
    """A = c / (sqrt(v) + 1e-7), (P,), with c such that the mean of A is 1."""
    inverse = second_moments.sqrt().add_(LEAST_ROOT).reciprocal_()
    return inverse.div_(inverse.mean())


class RmsPreconditioner:
    """Second moments v (P,) of the gradient of the mean loss, prior included, and the inverse masses A of them.

    `see` is called while exploring and not while sampling: a constant A is a mass, which leaves the target as it is
    without a correction term. least: lowest v of each weight, broadcast to (P,). What the prior alone contributes is
    1/(s N)^2, since E[(dU/dw)^2] = E[d2U/dw2] under the posterior; without that floor, weights to which the network
    pays no attention (the biases of keys, dead units) have v near 0, and the mean of A is theirs alone.
    """

    def __init__(self, like: Tensor, least: Tensor) -> None:
        self._moments = torch.zeros_like(like)
        self._least = least
        self._seen = 0
        self.inverse_mass = torch.ones_like(like)

    @torch.no_grad()
    def see(self, gradient: Tensor, examples: int) -> None:
        """Take in a gradient (P,) of U, the sum over `examples`. The first 100 are averaged evenly, so that the
        moments do not start from 0."""
        self._seen += 1
        weight = max(1 - DECAY, 1 / self._seen)
        self._moments.mul_(1 - weight).addcmul_(gradient, gradient, value=weight / examples**2)
        self._settle()

    def _settle(self) -> None:
        self.inverse_mass = inverse_masses(torch.maximum(self._moments, self._least))

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self._moments, "seen": self._seen}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._moments.copy_(state["moments"])
        self._seen = state["seen"]
        if self._seen:
            self._settle()
        else:
            self.inverse_mass.fill_(1.0)


def is_preconditioned(network: nn.Module, config: SamplingConfig) -> bool:
    """Whether masses are those of `RmsPreconditioner`: as asked for, or `auto` for this network.

    Raises:
        ConfigError: there is no exploring in which they could be measured.
    """
    if config.precondition == "rmsprop" and config.explore == 0:
        raise ConfigError(
            "precondition: rmsprop measures gradients while exploring, and explore: 0 leaves no time for it; "
            "legal: explore above 0, or precondition: none"
        )
    if config.precondition == "auto":
        return has_layer_norm(network) and config.explore > 0
    return config.precondition == "rmsprop"
