"""Named weights of an untouched `nn.Module`: collecting them, checking them, running the network with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from benchmark.errors import ConfigError, nearest


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Detached parameters and floating-point buffers by name; a tied parameter once. Views, not copies."""
    named = dict(network.named_parameters()) | dict(network.named_buffers())
    return {name: tensor.detach() for name, tensor in named.items() if tensor.is_floating_point()}


def copy_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A deep copy."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def load_into(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy named weights into a network, in place.

    Raises:
        ConfigError: a name or shape does not fit the network, or a parameter or a buffer is missing.
    """
    check_weights(network, weights)
    own = weights_of(network)
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def check_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise ConfigError unless `weights` covers every parameter and floating-point buffer and fits by name and shape.

    `functional_call` silently ignores unknown names, so this is called once before weights are used.
    """
    own = weights_of(network)
    for name, tensor in weights.items():
        if name not in own:
            raise ConfigError(f"weight '{name}' is not in the network.{nearest(name, own)}")
        if tensor.shape != own[name].shape:
            raise ConfigError(
                f"weight '{name}' has shape {tuple(tensor.shape)}, the network has {tuple(own[name].shape)}"
            )
    missing = [name for name in own if name not in weights]
    if missing:
        raise ConfigError(
            f"{len(missing)} of the network's parameters and buffers have no weight, the first is '{missing[0]}'. "
            "A weight sample holds all of them: start from weights_of(network)."
        )


def forward(network: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Logits (n, K) of `network` with `weights` in place of its own; the network is left as it was."""
    logits: Tensor = functional_call(network, dict(weights), (inputs,))
    return logits


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in eval mode; afterwards every module is in the mode it was in (some may be frozen)."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


_RANDOM = ("normal_", "uniform_", "trunc_normal_", "bernoulli_", "exponential_")


class _WithoutDraws(TorchFunctionMode):
    """Tensors without memory are not filled with random numbers: torch would first load its compiler (seconds)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and getattr(func, "__name__", "") in _RANDOM and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Networks that are built here have shapes and no memory (meta device)."""
    with torch.device("meta"), _WithoutDraws():
        yield


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next(network.parameters()).device


def on_device_of(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the network's device: what a posterior's `decode` does with what it has read."""
    return {name: tensor.to(device_of(network)) for name, tensor in tensors.items()}


def parameter_count(network: nn.Module) -> int:
    """D: elements of all parameters, tied tensors once."""
    return sum(parameter.numel() for parameter in network.parameters())


def buffer_count(network: nn.Module) -> int:
    """B: elements of floating-point buffers (running statistics); integer batch counters are not counted."""
    return sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
