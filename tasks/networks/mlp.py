"""Multilayer perceptron on the flattened image."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def build(hidden: Sequence[int], activation: str, input_shape: tuple[int, int, int], n_classes: int) -> nn.Sequential:
    """Linear layers `fc1`, `fc2`, ... of the given widths and a classifier `head`.

    He initialisation (fan-in, normal; Glorot's gain for tanh) and zero biases, as is standard for these activations.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width_in = math.prod(input_shape)
    for index, width in enumerate(hidden, start=1):
        linear = nn.Linear(width_in, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu" if activation == "relu" else "tanh")
        nn.init.zeros_(linear.bias)
        layers[f"fc{index}"] = linear
        layers[f"act{index}"] = ACTIVATIONS[activation]()
        width_in = width
    layers["head"] = nn.Linear(width_in, n_classes)
    return nn.Sequential(layers)
