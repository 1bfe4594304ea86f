"""Which parameters are fixed: weights and biases of layers, first and last layer included."""

from __future__ import annotations

from torch import nn

from methods.finetuning.select import LAYERS, Selection, layer_weights, select_nothing
from methods.probabilistic_weight_fixing.config import Scope

BIASES = ("bias", "in_proj_bias")
"""Not `bias_k` and `bias_v` of attention, which are tokens."""


def scope_of(network: nn.Module, scope: Scope) -> Selection:
    """What is fixed, as `bayesian`, trainable or not; the rest is trained as points where it requires gradients.

    Raises:
        ConfigError: the network has no convolutional, linear or attention layer, or a parameter that is no real
            floating-point tensor yet.
    """
    points = select_nothing(network)
    chosen = {*layer_weights(network), *(layer_biases(network) if scope == "weights_and_biases" else ())}
    return Selection(
        tuple(name for name, _ in network.named_parameters() if name in chosen),
        tuple(name for name in points.trained if name not in chosen),
        tuple(name for name in points.frozen if name not in chosen),
    )


def layer_biases(network: nn.Module) -> tuple[str, ...]:
    """Biases of convolutional, linear and attention layers, in the network's order, a tied one once."""
    owned = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, (*LAYERS, nn.MultiheadAttention))
        for name, parameter in module.named_parameters(recurse=False)
        if name in BIASES
    }
    return tuple(name for name, parameter in network.named_parameters() if id(parameter) in owned)
