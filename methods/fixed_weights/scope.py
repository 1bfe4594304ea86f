"""Which parameters are fixed: weights and biases of layers, first and last layer included."""

from __future__ import annotations

from torch import nn

from methods.finetuning.select import Selection, layer_biases, layer_weights, select_these
from methods.fixed_weights.config import Scope


def scope_of(network: nn.Module, scope: Scope) -> Selection:
    """What is fixed, as `bayesian`, trainable or not; the rest is trained as points where it requires gradients.

    Raises:
        ConfigError: the network has no convolutional, linear or attention layer, or a parameter that is no real
            floating-point tensor yet.
    """
    biases = layer_biases(network) if scope == "weights_and_biases" else ()
    return select_these(network, (*layer_weights(network), *biases))
