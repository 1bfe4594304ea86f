"""Settings of the fixing itself: the grid of values, who counts for one, and the noise before and after."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from benchmark import Config

SIGMA_FLOOR = 2.0**-30
"""Least standard deviation of the noise on a weight; sigma itself may lie below."""


class FixingSettings(Config):
    """How weights N(mu, sigma^2) are fixed to few values. The defaults are the preset `recommended`."""

    b: int = Field(
        7,
        ge=1,
        le=15,
        description="values are multiples of 2^-b; 2^-b is also the threshold of zero_fix. Sets the rate",
    )
    omega_max: int = Field(4, ge=1, le=16, description="most powers of two that add up to a value")
    inc: float = Field(
        2.0,
        gt=1,
        le=1024,
        description="factor on delta when no value within reach is left; a power of two keeps the arithmetic exact",
    )
    max_phases: int = Field(
        64, ge=1, le=1024, description="most phases (pairs of omega and delta) in a round before it counts as failed"
    )
    zero_fix: bool = Field(True, description="weights below 2^-b count for the value 0, whatever their sigma")
    count: Literal["coverage", "nearest"] = Field(
        "coverage",
        description=(
            "what a value's count is. coverage: free weights within delta of it, a weight may count for several. "
            "nearest: free weights for which it is the nearest value left (slow: a pass per value)"
        ),
    )
    membership: Literal["max", "mean"] = Field(
        "max",
        description=(
            "who is fixed to the value with the largest count. max: weights within delta. mean: the nearest weights "
            "whose mean distance is within delta (slow: a pass per value)"
        ),
    )
    sigma_join: Literal["std_mu", "keep", "div10", "div2"] = Field(
        "std_mu",
        description=(
            "sigma of weights that are fixed. std_mu: standard deviation of their means before fixing, one per value "
            "picked. keep: as it is, and it is trained on. div10, div2: a tenth, half of it"
        ),
    )
    sigma_init: Literal["pow2", "constant"] = Field(
        "pow2",
        description="where sigma starts. pow2: grows with the distance to the powers of two around. constant: 1e-4",
    )
    sigma_scale: float = Field(
        0.0025, gt=0, le=1, description="pow2: sigma of the weight at sigma_quantile of its tensor"
    )
    sigma_quantile: float = Field(
        0.75, gt=0, le=1, description="pow2: quantile of the distances, over a tensor's weights other than 0"
    )
    sigma_max: float = Field(0.05, ge=SIGMA_FLOOR, le=1, description="pow2: largest sigma at the start")
