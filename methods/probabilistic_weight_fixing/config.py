"""Settings of `pwfn`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from benchmark import MethodConfig
from methods.finetuning.config import Rate
from methods.fixed_weights.config import Fractions, Scope
from methods.probabilistic_weight_fixing.presets import PRESETS
from methods.probabilistic_weight_fixing.settings import FixingSettings


class WeightFixingConfig(FixingSettings, MethodConfig):
    """Settings of `pwfn`. The defaults are the preset `recommended`; others are in `presets.py`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    fractions: Fractions = Field(
        (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0),
        min_length=1,
        description="p, shares of the weights that are fixed after each round, rising, in (0, 1]. Below 1 at the end: "
        "the other weights keep Gaussians of their own",
    )
    delta_start: float = Field(1.0, gt=0, le=1e4, description="reach in standard deviations in the first round")
    delta_end: float = Field(1.0, gt=0, le=1e4, description="reach in the last round; linear in between")
    recluster_all: bool = Field(
        False, description="every round clusters all weights anew, as released; false: what is fixed stays fixed"
    )
    sigma_pool: Literal["value", "none"] = Field(
        "value",
        description="after the last round. value: one sigma per distinct value. none: one per cluster, as released",
    )
    reg: Literal["released", "hinge", "none"] = Field(
        "released",
        description=(
            "push on sigma below reg_cutoff. released: gradient -alpha (reg_cutoff - sigma) |eps|. hinge: -alpha. none"
        ),
    )
    alpha: float = Field(2**-11, ge=0, le=1e3, description="strength of the push on sigma")
    reg_cutoff: float = Field(0.05, gt=0, le=10, description="S, the sigma from which on there is no push")
    reg_bias: bool = Field(False, description="whether the sigmas of biases are pushed, too")
    lr: Literal["auto"] | Rate = Field(
        "auto", description="learning rate. auto: 1e-2 if a full round has fewer than 2000 steps, else 1e-3"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD; starts afresh in every round")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="L2 of free means and of what is never fixed")
    clip_norm: float | None = Field(1.0, gt=0, description="largest global norm of a step's gradient; None: any")
    decay_sigma: bool = Field(False, description="decay acts on free sigmas, too")
    decay_fixed: bool = Field(
        False, description="decay acts on fixed means, too, as released: they shrink until they are clustered again"
    )
    start_epochs: int = Field(1, ge=0, le=1000, description="passes before the first round, not scaled by the budget")
    start_fraction: float = Field(0.05, gt=0, le=1, description="share of the batches of these passes, at least one")
    rest_epochs: int = Field(
        3, ge=0, le=1000, description="nominal passes before each other round, scaled by the protocol's budget"
    )
    alternate: bool = Field(
        False, description="rest_epochs of the means and the rest without noise, then rest_epochs of sigma alone"
    )
    batch_size: int = Field(128, ge=1, le=65_536, description="examples per optimiser step")
    scope: Scope = Field(
        "weights_and_biases", description="what is fixed of convolutional, linear and attention layers"
    )
    bn_reestimate_batches: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        100, description="batches (at most one epoch) that running statistics are averaged over at the end; 0: none"
    )
    predict: Literal["auto", "mean", "draws"] = Field(
        "auto", description="with the means or with draws. auto: the lower validation NLL"
    )
    val_draws: int = Field(20, ge=1, le=10_000, description="draws of a validation")

    @model_validator(mode="after")
    def _fits_together(self) -> WeightFixingConfig:
        if self.decay_fixed and not self.recluster_all:
            raise ValueError(
                "decay_fixed moves fixed weights off their values, and only recluster_all puts them back; set "
                "recluster_all: true or decay_fixed: false"
            )
        if self.predict != "mean" and self.sigma_pool == "none" and self.sigma_join != "std_mu":
            raise ValueError(
                f"sigma_join '{self.sigma_join}' with sigma_pool 'none' leaves a sigma per weight, and predict "
                f"'{self.predict}' would store them all; set sigma_pool: value, sigma_join: std_mu or predict: mean"
            )
        return self

    def deltas(self) -> list[float]:
        """The reach of every round: linear from delta_start to delta_end."""
        last = max(1, len(self.fractions) - 1)
        way = self.delta_end - self.delta_start
        return [self.delta_start + way * t / last for t in range(len(self.fractions))]
