"""How much an experiment may do: bounds that keep a look at a posterior short beside sampling it."""

from __future__ import annotations

import torch

from benchmark import Problem, Split
from methods.finetuning.modes import norms
from methods.hmc_rebasin.inputs import Material

SMALL = 100_000
"""Parameters up to which one match takes milliseconds, so that every one may restart."""
LARGE = 5_000_000
"""Parameters above which one match or one line takes tens of seconds: experiments then take few of them."""
RESET_EXAMPLES, RESET_OF_MANY = 2_000, 512
"""Training examples from which running statistics are estimated, for a few networks, or for each of up to a hundred:
the error of a mean is 2 or 4 % of a standard deviation, less where an image has many positions."""


def parameters_of(material: Material) -> int:
    """P, sampled parameters."""
    return sum(shape.numel() for shape in material.run.shapes.values())


def is_large(material: Material) -> bool:
    """More than `LARGE` parameters."""
    return parameters_of(material) > LARGE


def restarts_of_many(material: Material) -> int:
    """Runs of one of many matches: as the settings say, a single one beyond `SMALL` parameters."""
    return material.config.restarts if parameters_of(material) <= SMALL else 1


def reset_split(problem: Problem, seed: int, most: int = RESET_EXAMPLES) -> Split | None:
    """Training data for running statistics, a random choice of `most` without augmentation; None where there are no
    statistics."""
    if not norms(problem.network):
        return None
    train = problem.train
    if len(train) <= most:
        return train.first(len(train))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train.select(order[:most])
