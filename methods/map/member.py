"""One training of `map`: member 0 starts from the problem's initialisation, every other from its own."""

from __future__ import annotations

from copy import deepcopy

from benchmark import ConfigError, Problem, RunContext, load_into, weights_of
from methods.map.config import MapConfig
from methods.map.fit import fit_point
from methods.map.posterior import TrainedPoint


def fit_member(problem: Problem, ctx: RunContext, config: MapConfig) -> TrainedPoint:
    """Train the member `config.member`; errors as `fit_point`. The problem's own network is left as it is.

    Members share the run's task, network and seed; initialisation, order and augmentation are hashed from the member's
    number too, so that members are independent and an ensemble of seed s never shares one with seed s + 1. Of a network
    that starts from published weights, what these leave out is initialised anew, and order and augmentation differ.

    Raises:
        ConfigError: `epochs: 0` for a further member: nothing would make it another network than the first.
    """
    if config.member == 0:
        network, data_seed = deepcopy(problem.network), None
    else:
        if config.epochs == 0:
            raise ConfigError(
                f"member {config.member} with 'epochs: 0' would not be trained, and an ensemble of such members says "
                "nothing that one of them does not. Train them (epochs from 1), or leave the ensemble out."
            )
        network = problem.new_network(ctx.seed_for("member", config.member, "initialisation"))
        load_into(network, {**weights_of(network), **problem.start})
        data_seed = ctx.seed_for("member", config.member, "data")
    fitted = fit_point(network, problem, ctx, config, data_seed=data_seed)
    return TrainedPoint(fitted.weights, fitted.facts)
