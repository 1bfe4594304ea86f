"""What the base network's own training decides for the fine-tuning: optimiser family and strength of the prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from benchmark import ConfigError, RunContext
from methods.finetuning.config import REFERENCE_BATCH, FineTuningConfig
from methods.map.recipe import decays

ASSUMED_L2 = 1e-4
AUTO_RATE = {"sgd": 1e-2, "adam": 1e-4}
"""For batches of 128. Ten times lower, the means of a network that is far too sure of itself do not follow the noise
within 12 epochs: on the study `known_answer` the NLL of `mean_field` is then 1.10 instead of 1.05 (temperature scaling:
1.09), and on digits, over five seeds, nothing is gained by it (ResNet .0329 for .0326, DeiT .0917 for .0890)."""


@dataclass(frozen=True)
class Recipe:
    """optimiser of the means; rate: its peak; l2: lambda; l2_assumed: the base run had no
    coupled L2 to take it from."""

    optimiser: Literal["sgd", "adam"]
    rate: float
    l2: float
    l2_assumed: bool


def recipe_for(config: FineTuningConfig, ctx: RunContext) -> Recipe:
    """Resolve `optim_mu`, `lr_mu` and `l2` by the facts `optimiser` and `l2` of the base run.

    Raises:
        ConfigError: there is no base run.
    """
    if not ctx.needed:
        raise ConfigError("fine-tuning needs a base run to start from, and the run context holds none")
    facts: Mapping[str, float | int | str | bool] = ctx.needed[0].facts
    adaptive = str(facts.get("optimiser", "sgd")).startswith("adam")
    optimiser: Literal["sgd", "adam"]
    if config.optim_mu == "auto":
        optimiser = "adam" if adaptive else "sgd"
    else:
        optimiser = config.optim_mu
    rate = mean_rate(config, optimiser)
    found = float(facts.get("l2", 0.0)) if config.l2 == "base" else config.l2
    return Recipe(optimiser, rate, found if found > 0 else ASSUMED_L2, not found > 0)


def mean_rate(config: FineTuningConfig, optimiser: Literal["sgd", "adam"]) -> float:
    """The peak rate of the means: as given, or `auto` for this optimiser and batch size."""
    if config.lr_mu == "auto":
        return AUTO_RATE[optimiser] * config.batch_size / REFERENCE_BATCH
    return config.lr_mu


def decaying(network: nn.Module) -> set[str]:
    """Names of the parameters whose L2 the base runs penalise, by the rule of `map`."""
    return {name for name, decay in decays(network).items() if decay}
