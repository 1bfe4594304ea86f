"""Training with dropout on layer inputs."""

from __future__ import annotations

from copy import deepcopy

from benchmark import Problem, RunContext
from methods.map.fit import fit_point
from methods.mc_dropout.config import McDropoutConfig
from methods.mc_dropout.layers import choose, input_channels, layers_run
from methods.mc_dropout.masks import dropout_on
from methods.mc_dropout.posterior import DropoutPosterior


def fit_dropout(problem: Problem, ctx: RunContext, config: McDropoutConfig) -> DropoutPosterior:
    """Train as `map` does, with fresh masks for every example of every step; the masks' generator is checkpointed.

    The validation NLL that selects the epoch is that of the mean weights (one pass, no masks). The problem's own
    network is left as it is. Errors as `fit_point` and `choose`.
    """
    network = deepcopy(problem.network)
    names = choose(layers_run(network, problem.train.first(1).inputs), config.where)
    generator = ctx.generator("dropout", ctx.device)
    with dropout_on(network, names, config.rate, generator):
        fitted = fit_point(network, problem, ctx, config)
    layers = {name: network.get_submodule(name) for name in names}
    random = sum(fitted.weights[f"{name}.weight"].numel() for name in names)
    return DropoutPosterior(
        fitted.weights,
        {name: input_channels(layer) for name, layer in layers.items()},
        config.rate,
        {**fitted.facts, "dropped_layers": len(names), "dropped_weights": random},
    )
