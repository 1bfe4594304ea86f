"""The tensors of a fit, between the base network and the posterior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.mean_field.flat import Flat
from methods.mean_field.select import Selection


class MeanFieldState:
    """Copies of the base network's tensors, in three groups, float32 unless the network is double precision.

    mu, psi: means and log standard deviations of the Bayesian parameters, flat with views by name.
    trained: point-valued parameters that are trained. fixed: those that are not.
    buffers: all buffers, integer counters included. The network itself is never written to.
    """

    def __init__(self, network: nn.Module, selection: Selection) -> None:
        own = {name: _floating(parameter.detach()) for name, parameter in network.named_parameters()}
        self.mu = Flat.copy_of({name: own[name] for name in selection.bayesian})
        self.psi = Flat.like(self.mu)
        self.psi.flat.zero_()
        self.trained = {name: own[name].clone() for name in selection.trained}
        self.fixed = {name: own[name].clone() for name in selection.frozen}
        self.buffers = {name: _floating(buffer.detach()).clone() for name, buffer in network.named_buffers()}

    def points(self) -> dict[str, Tensor]:
        """Everything that has no distribution, as the posterior keeps it: parameters and floating-point buffers."""
        buffers = {name: buffer for name, buffer in self.buffers.items() if buffer.is_floating_point()}
        return {name: tensor.detach() for name, tensor in {**self.trained, **self.fixed, **buffers}.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "mu": self.mu.flat,
            "psi": self.psi.flat,
            "trained": dict(self.trained),
            "buffers": dict(self.buffers),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mu.flat.copy_(state["mu"])
        self.psi.flat.copy_(state["psi"])
        for own, saved in ((self.trained, state["trained"]), (self.buffers, state["buffers"])):
            for name, tensor in own.items():
                tensor.copy_(saved[name])


def _floating(tensor: Tensor) -> Tensor:
    """At least single precision: half is too coarse for means that move by fractions of sigma. Integers stay."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
