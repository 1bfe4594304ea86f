"""Which parameters are fixed: weights and biases of layers, and the affine parameters of norms."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from methods.finetuning.select import Selection
from methods.probabilistic_weight_fixing.scope import scope_of

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def wfn_scope(network: nn.Module, include_norm: bool) -> Selection:
    """What is fixed, as `bayesian`, trainable or not; the rest is trained as points where it requires gradients.

    Raises:
        ConfigError: the network has no convolutional, linear or attention layer.
    """
    layers = scope_of(network, "weights_and_biases")
    chosen = {*layers.bayesian, *(norm_parameters(network) if include_norm else ())}
    return Selection(
        tuple(name for name, _ in network.named_parameters() if name in chosen),
        tuple(name for name in layers.trained if name not in chosen),
        tuple(name for name in layers.frozen if name not in chosen),
    )


def norm_parameters(network: nn.Module) -> tuple[str, ...]:
    """Scales and shifts of normalisation layers, in the network's order, a tied one once."""
    owned = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    return tuple(name for name, parameter in network.named_parameters() if id(parameter) in owned)
