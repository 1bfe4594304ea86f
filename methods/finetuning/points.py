"""The tensors of a network that have no distribution: trained as points, left alone, or running statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Points:
    """Copies of a network's tensors in three groups; the network itself is never written to.

    trained: parameters that are trained as points. fixed: those that are not. buffers: all buffers, integer counters
    included. Float32 unless the network is double precision: half is too coarse for small steps.
    """

    def __init__(self, network: nn.Module, trained: Iterable[str], fixed: Iterable[str]) -> None:
        own = dict(network.named_parameters())
        self.trained = {name: floating(own[name].detach()).clone() for name in trained}
        self.fixed = {name: floating(own[name].detach()).clone() for name in fixed}
        self.buffers = {name: floating(buffer.detach()).clone() for name, buffer in network.named_buffers()}

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name, as a forward pass needs them; the trained ones carry gradients while they learn."""
        return {**self.trained, **self.fixed, **self.buffers}

    def floats(self) -> dict[str, Tensor]:
        """Parameters and floating-point buffers, detached: what a posterior keeps."""
        return {name: tensor.detach() for name, tensor in self.tensors().items() if tensor.is_floating_point()}

    def state_dict(self) -> dict[str, Any]:
        return {"trained": dict(self.trained), "buffers": dict(self.buffers)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for own, saved in ((self.trained, state["trained"]), (self.buffers, state["buffers"])):
            for name, tensor in own.items():
                tensor.copy_(saved[name])


def floating(tensor: Tensor) -> Tensor:
    """At least single precision; integers stay what they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
