"""Which parameters are fixed: weights and biases of layers, and the affine parameters of norms."""

from __future__ import annotations

from torch import nn

from methods.finetuning.select import Selection, norm_parameters, select_these
from methods.fixed_weights.scope import scope_of


def wfn_scope(network: nn.Module, include_norm: bool) -> Selection:
    """What is fixed, as `bayesian`, trainable or not; the rest is trained as points where it requires gradients.

    Raises:
        ConfigError: the network has no convolutional, linear or attention layer.
    """
    layers = scope_of(network, "weights_and_biases")
    return select_these(network, (*layers.bayesian, *(norm_parameters(network) if include_norm else ())))
