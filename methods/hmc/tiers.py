"""What `auto` and None of the sampling settings mean for a network of this size and this many data."""

from __future__ import annotations

from typing import Any

from methods.hmc.config import SamplingConfig

MOST_HMC_PARAMETERS, MOST_HMC_EXAMPLES = 60_000, 10_000
"""Up to here `sampler: auto` is hmc."""
MOST_TINY_PARAMETERS, MOST_TINY_EXAMPLES = 5_000, 2_000
FEW_EXAMPLES = 5_000
"""Below, an epoch is so short that a cycle needs no more than 20."""

TINY: dict[str, Any] = {"chains": 4, "burn_in": 80, "samples": 900, "keep": 300, "max_leapfrog": 1000}
SMALL: dict[str, Any] = {"chains": 4, "burn_in": 100, "samples": 900, "keep": 300, "max_leapfrog": 400}
"""Long enough for four chains to be called converged, which takes a bulk ESS of 400: 600 trajectories left a perceptron
of 16 units on digits with a smallest one of 312 when every fourth was stored, 404 of every second, 428 of all."""
STOCHASTIC: dict[str, Any] = {"chains": 1, "cycles": 6, "cycle_epochs": 50}
STOCHASTIC_FEW: dict[str, Any] = {"chains": 1, "cycles": 4, "cycle_epochs": 20}


def settled(config: SamplingConfig, parameters: int, examples: int) -> SamplingConfig:
    """The settings with sampler, start, chains and lengths decided. Settled settings come back as they are.

    parameters: P of the network. examples: N, of the training split.
    """
    sampler = config.sampler
    if sampler == "auto":
        within = parameters <= MOST_HMC_PARAMETERS and examples <= MOST_HMC_EXAMPLES
        sampler = "hmc" if within and not config.augment else "sghmc"
    if sampler == "sghmc":
        lengths = STOCHASTIC_FEW if examples <= FEW_EXAMPLES else STOCHASTIC
    else:
        lengths = TINY if parameters <= MOST_TINY_PARAMETERS and examples <= MOST_TINY_EXAMPLES else SMALL
    given = config.model_dump()
    decided = {name: value for name, value in lengths.items() if given[name] is None}
    if "keep" in decided and given["samples"] is not None:
        decided["keep"] = min(decided["keep"], given["samples"])
    if "samples" in decided and given["keep"] is not None:
        decided["samples"] = max(decided["samples"], given["keep"])
    init = config.init if config.init != "auto" else ("map" if sampler == "sghmc" else "random")
    return SamplingConfig(**{**given, **decided, "sampler": sampler, "init": init})


def is_settled(config: SamplingConfig) -> bool:
    """Whether nothing is left that depends on network and data."""
    lengths = STOCHASTIC if config.sampler == "sghmc" else SMALL
    return "auto" not in (config.sampler, config.init) and all(getattr(config, name) is not None for name in lengths)
