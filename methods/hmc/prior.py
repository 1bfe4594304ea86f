"""The Gaussian prior over the weights: one standard deviation per tensor, mean 0."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from benchmark import ConfigError, Fact, nearest
from methods.hmc.config import SamplingConfig
from methods.map.recipe import has_layer_norm

CONVOLUTIONAL, TRANSFORMER = 1 / math.sqrt(5), 0.2
"""Standard deviations where the base network has no L2 whose prior could be taken (Izmailov et al. 2021, arXiv
2104.14421, sample residual networks under variance 1/5)."""


def prior_scales(
    network: nn.Module, config: SamplingConfig, examples: int, base: Mapping[str, Fact] | None
) -> dict[str, float]:
    """Standard deviation s of every trainable parameter's prior, constant within a tensor, so that relabelling units
    leaves the prior as it is.

    config: settled. examples: N. base: facts of the run of `map`, with `l2`, the coefficient of its |w|^2/2; None
    without such a run. `map`: s = 1/sqrt(N l2), the prior under which the base network is the posterior's mode; it
    holds for norms and biases too, which the base network may leave undecayed.

    Raises:
        ConfigError: `map` and the base network has no L2; a table that names a parameter wrongly or lacks one.
    """
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    setting = config.prior_std
    if isinstance(setting, dict):
        return _from_table(setting, names)
    l2 = float(base["l2"]) if base is not None and "l2" in base else 0.0
    if setting == "auto":
        if config.sampler != "sghmc":
            setting = 1.0
        elif l2 > 0:
            setting = "map"
        else:
            setting = TRANSFORMER if has_layer_norm(network) else CONVOLUTIONAL
    if setting == "map":
        if l2 <= 0:
            raise ConfigError(
                "prior_std: map takes the prior from the L2 of the base network, and this one has none (AdamW's decay "
                "is no prior). Set a number: 1.0 for a perceptron, 0.45 for a convolutional network, "
                "0.2 for a transformer; or train the base network by SGD: defaults: {map: {optimiser: sgd}}."
            )
        setting = 1 / math.sqrt(examples * l2)
    return dict.fromkeys(names, float(setting))


def _from_table(table: Mapping[str, float], names: list[str]) -> dict[str, float]:
    for name in table:
        if name not in names:
            raise ConfigError(f"prior_std names '{name}', which is no trainable parameter.{nearest(name, names)}")
    lacking = [name for name in names if name not in table]
    if lacking:
        raise ConfigError(
            f"prior_std has no standard deviation for {len(lacking)} parameters, the first is '{lacking[0]}'. "
            "A table names every trainable parameter; one number holds for all of them."
        )
    return {name: float(table[name]) for name in names}
