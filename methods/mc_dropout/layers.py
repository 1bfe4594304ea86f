"""Which layers take dropout on their inputs: found by running the network once, not by the order of declaration."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import ConfigError, evaluating


def layers_run(network: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the linear and 2-d convolution layers in the order in which a forward pass of `inputs` runs them.

    Left out, because one mask on the layer's input would not be one mask on its weight: layers that run more than once
    or not at all (their weight is used functionally, as by `nn.MultiheadAttention`), whose weight is shared with
    another module, or whose weight is computed from other parameters (weight norm). The network is left as it was.
    """
    owners = Counter(id(weight) for module in network.modules() for weight in module.parameters(recurse=False))
    parameters = dict(network.named_parameters())
    calls: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: calls.append(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and f"{name}.weight" in parameters
    ]
    try:
        with torch.no_grad(), evaluating(network):
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    times = Counter(calls)
    return [name for name in calls if times[name] == 1 and owners[id(parameters[f"{name}.weight"])] == 1]


def choose(names: list[str], where: str) -> list[str]:
    """The layers that `where` stands for, of all `names` in order of execution.

    Raises:
        ConfigError: there is none.
    """
    chosen = {
        "all": names,
        "all_but_first": names[1:],
        "last_half": names[-(len(names) // 2) :] if len(names) > 1 else [],
        "head": names[-1:],
    }[where]
    if not chosen:
        raise ConfigError(
            f"'where: {where}' selects no layer of this network, which runs {len(names)} linear and convolution layers."
            "\n  legal: all, all_but_first, last_half, head; 'head' or 'all' suit a network of a single layer."
        )
    return chosen


def input_channels(layer: nn.Module) -> int:
    """Input channels of a layer of `layers_run`, which is what a mask has one entry for."""
    count: Any = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
    return int(count)
