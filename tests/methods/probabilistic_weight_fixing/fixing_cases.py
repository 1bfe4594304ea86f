"""Networks and fits that the tests of `pwfn` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_problems import context_of, problem_of, small_with_token
from torch import nn

from benchmark import BitReader, Problem
from methods.probabilistic_weight_fixing import ProbabilisticWeightFixing
from methods.probabilistic_weight_fixing.posterior import FixedPosterior

METHOD = ProbabilisticWeightFixing()
QUICK: dict[str, Any] = {"fractions": [0.3, 0.7, 1.0], "rest_epochs": 2, "start_fraction": 0.4, "batch_size": 20}


def fit(
    folder: Path, made: Problem | None = None, config: dict[str, Any] | None = None, **options: Any
) -> tuple[FixedPosterior, Problem]:
    """The posterior of a fit with QUICK settings, and the problem."""
    made = made or problem_of(small_with_token(), small_with_token)
    ctx = context_of("pwfn", folder, made.network, **options)
    try:
        return METHOD.fit(made, ctx, METHOD.Config(**{**QUICK, **(config or {})})), made
    finally:
        ctx.close()


def decoded(data: bytes, net: nn.Module) -> FixedPosterior:
    return FixedPosterior.decode(BitReader(data), net)
