"""Oracle cases of weight fixing, and clustering rounds made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.fixed_weights.fixing import Fixing
from methods.fixed_weights.picks import RoundRecord
from methods.probabilistic_weight_fixing.settings import FixingSettings

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "oracles.json").read_text())["cases"]


def oracle(kind: str) -> list[dict[str, Any]]:
    """All cases of one kind."""
    found = [case for case in CASES if case["kind"] == kind]
    assert found
    return found


def inputs_of(case: dict[str, Any]) -> dict[str, Any]:
    """A case's inputs, with mu and sigma of the case that they are borrowed from."""
    own = case["inputs"]
    if "mu_sigma_from" not in own:
        return own
    lender = next(other for other in CASES if other["id"] == own["mu_sigma_from"])
    return {**own, "mu": lender["inputs"]["mu"], "sigma": lender["inputs"]["sigma"]}


def weights_of_case(case: dict[str, Any]) -> Fixing:
    """All free."""
    inputs = inputs_of(case)
    return Fixing.of(torch.tensor(inputs["mu"]), torch.tensor(inputs["sigma"]), inputs["b"])


def settings_of_case(case: dict[str, Any]) -> FixingSettings:
    return FixingSettings.model_validate(
        {key: value for key, value in case["inputs"].items() if key in FixingSettings.model_fields}
    )


def picks_of(record: RoundRecord) -> list[list[float]]:
    """As the oracle has them."""
    return [[pick.code, pick.count, pick.omega, pick.delta] for pick in record.picks]


def codes_of(weights: Fixing) -> list[int | None]:
    """None where a weight is free."""
    return [code if fixed else None for code, fixed in zip(weights.code.tolist(), weights.fixed.tolist(), strict=True)]


def sigma_of_fixed(weights: Fixing) -> Tensor:
    """NaN where a weight is free."""
    return weights.sigma.where(weights.fixed, torch.nan)


def with_gaps(values: list[float | None]) -> Tensor:
    """float32, NaN for None."""
    return torch.tensor([torch.nan if value is None else value for value in values])
