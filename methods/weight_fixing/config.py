"""Settings of `wfn`."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from benchmark import MethodConfig
from methods.finetuning.config import Rate
from methods.fixed_weights.config import Fractions
from methods.weight_fixing.presets import PRESETS

LARGEST_DELTA = 0.5


class WfnConfig(MethodConfig):
    """Settings of `wfn`. The defaults are the preset `recommended`; others are in `presets.py`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    fractions: Fractions = Field(
        (0.3, 0.6, 0.8, 0.9, 0.95, 0.975, 0.99, 0.9975, 0.999, 1.0),
        min_length=1,
        description="p, shares of the weights that are fixed after each iteration, rising, in (0, 1]. Below 1 at the "
        "end: the other weights stay float32",
    )
    delta: float = Field(
        0.01,
        ge=0.003,
        le=LARGEST_DELTA,
        description="relative distance between a weight and its value in the last iteration; it shrinks to that in "
        "equal steps, from delta times the number of iterations. Sets the rate",
    )
    include_norm: bool = Field(True, description="scales and shifts of normalisation layers are fixed, too")
    recluster_all: bool = Field(
        False, description="every iteration clusters all weights anew, as released; false: what is fixed stays fixed"
    )
    alpha: float = Field(
        0.4, ge=0, le=100, description="pull of free weights to the last values, as a share of the cross-entropy"
    )
    lr: Rate = Field(2e-5, description="learning rate of Adam, which starts afresh in every iteration")
    clip_norm: float | None = Field(0.5, gt=0, description="largest global norm of a step's gradient; None: any")
    rest_epochs: int = Field(
        3, ge=0, le=1000, description="nominal passes before each iteration but the first, scaled by the budget"
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="examples per optimiser step")
    bn_reestimate_batches: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="batches (at most one epoch) that running statistics are averaged over at the end; 0: none",
    )

    def distances(self) -> list[float]:
        """The relative distance of every iteration: delta T, delta (T - 1), .., delta."""
        return [self.delta * left for left in range(len(self.fractions), 0, -1)]
