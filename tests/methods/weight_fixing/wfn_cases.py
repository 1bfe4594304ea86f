"""Networks, fits and oracle cases that the tests of `wfn` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from small_problems import context_of, problem_of, small_with_token
from torch import nn

from benchmark import BitReader, Problem
from methods.probabilistic_weight_fixing.posterior import FixedPosterior
from methods.weight_fixing import WeightFixing

METHOD = WeightFixing()
QUICK: dict[str, Any] = {
    "fractions": [0.3, 0.7, 1.0],
    "rest_epochs": 2,
    "batch_size": 20,
    "lr": 1e-2,
    "delta": 0.02,
}
CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "oracles.json").read_text())["cases"]


def oracle(kind: str) -> list[dict[str, Any]]:
    """All cases of one kind."""
    found = [case for case in CASES if case["kind"] == kind]
    assert found
    return found


def fit(
    folder: Path, made: Problem | None = None, config: dict[str, Any] | None = None, **options: Any
) -> tuple[FixedPosterior, Problem]:
    """The posterior of a fit with QUICK settings, and the problem."""
    made = made or problem_of(small_with_token(), small_with_token)
    ctx = context_of("wfn", folder, made.network, **options)
    try:
        return METHOD.fit(made, ctx, METHOD.Config(**{**QUICK, **(config or {})})), made
    finally:
        ctx.close()


def decoded(data: bytes, net: nn.Module) -> FixedPosterior:
    return FixedPosterior.decode(BitReader(data), net)
