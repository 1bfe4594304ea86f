"""An exponential moving average of the weights during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from benchmark import weights_of


class AveragedWeights:
    """a <- d a + (1 - d) w after every step, of all parameters and of the running means and variances of norms, which
    belong to the averaged weights. Other buffers (masks, tables) are the network's. Part of checkpoints.

    decay: d after the warm-up, in which it is (1 + t) / (10 + t) for t = 0, 1, ... while that is less.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        named = weights_of(network)
        averaged = {name for name, _ in network.named_parameters()} | statistics_of(network)
        self._decay = decay
        self._own = [tensor for name, tensor in named.items() if name in averaged]  # views: training moves them
        self._average = [tensor.clone() for tensor in self._own]

    @torch.no_grad()
    def update(self, t: int) -> None:
        """After step t; does not wait for the device."""
        decay = min(self._decay, (1 + t) / (10 + t))
        torch._foreach_lerp_(self._average, self._own, 1 - decay)

    @torch.no_grad()
    def put(self) -> None:
        """The averages into the network, for good."""
        torch._foreach_copy_(self._own, self._average)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the network has the averages; afterwards the weights that it is trained with."""
        with torch.no_grad():
            kept = [tensor.clone() for tensor in self._own]
        self.put()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._own, kept)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch._foreach_copy_(self._average, state["average"])


def statistics_of(network: nn.Module) -> set[str]:
    """Names of the running means and variances of norms."""
    return {
        f"{path}.{name}".removeprefix(".")
        for path, module in network.named_modules()
        if isinstance(module, _NormBase)
        for name in ("running_mean", "running_var")
    }
