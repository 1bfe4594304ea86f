"""The tensors of a network that have no distribution: trained as points, left alone, or running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import ConfigError


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

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy in place.

        Raises:
            ConfigError: the state is that of another network.
        """
        copy_named(self.trained, state["trained"])
        copy_named(self.buffers, state["buffers"])


def floating(tensor: Tensor) -> Tensor:
    """At least single precision; integers stay what they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@torch.no_grad()
def copy_named(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into equally named ones.

    Raises:
        ConfigError: names or shapes differ; nothing has been copied then.
    """
    odd = sorted(own.keys() ^ saved.keys())
    odd += [name for name in own if name in saved and own[name].shape != saved[name].shape]
    if odd:
        raise ConfigError(
            f"the saved state is of another network or another selection: {len(odd)} tensors differ in name or shape, "
            f"the first is '{odd[0]}'. Start afresh, or load it into the network that it was saved from."
        )
    for name, tensor in own.items():
        tensor.copy_(saved[name])
