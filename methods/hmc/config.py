"""Settings of sampling the posterior over weights: `hmc`, and the block `sampling` of what is made of its samples."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from benchmark import MethodConfig
from methods.hmc.presets import PRESETS

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Sampler = Literal["hmc", "pyro", "sghmc"]
FEWEST_FOR_MASS = 8
"""Trajectories of burn-in, of whose third quarter a variance can be taken."""


class SamplingConfig(MethodConfig):
    """How the posterior is sampled. What is None or `auto` follows from network and data (`methods.hmc.tiers`).

    The defaults are the preset `recommended`; others are in `presets.py`.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    sampler: Auto | Sampler = Field(
        "auto",
        description=(
            "hmc: full-batch Hamiltonian Monte Carlo. pyro: Pyro's, for tiny problems. sghmc: stochastic gradients, "
            "for large networks. auto: hmc up to 60,000 parameters and 10,000 examples, else sghmc"
        ),
    )
    chains: Count | None = Field(None, description="C, independent chains. None: 4; with sghmc 1")
    init: Literal["auto", "random", "map"] = Field(
        "auto", description="where chains start: at draws of the initialisation (auto for hmc) or at `map` (for sghmc)"
    )
    prior_std: Literal["auto", "map"] | Positive | dict[str, Positive] = Field(
        "auto",
        description=(
            "s of the prior N(0, s^2): one number, a table name -> number, or map: 1/sqrt(N decay) of the base "
            "network's L2. auto: 1; with sghmc map, or where the base network has no L2 1/sqrt(5), transformers 0.2"
        ),
    )
    temperature: Positive = Field(1.0, description="T of the target p(w | data)^(1/T); other than 1 the row is marked")

    burn_in: Count | None = Field(None, description="trajectories per chain that adapt and are thrown away")
    discard: int = Field(0, ge=0, description="further trajectories that are thrown away, with everything adapted")
    samples: Count | None = Field(None, description="trajectories per chain after that")
    keep: Count | None = Field(None, description="states per chain that are stored, evenly spaced among the samples")
    step_size: Auto | Positive = Field("auto", description="leapfrog step; auto: dual averaging in the burn-in")
    target_accept: float = Field(0.8, gt=0.1, lt=1, description="acceptance that dual averaging aims at")
    trajectory: Auto | Positive = Field("auto", description="tau, length of a trajectory; auto: pi/2 times s")
    max_leapfrog: Count | None = Field(None, description="most leapfrog steps of a trajectory, before its jitter")
    jitter: float = Field(0.2, ge=0, lt=1, description="lengths vary uniformly by this share, to leave no cycle unseen")
    mass: Literal["unit", "diag"] = Field("unit", description="diag: inverse variances of the second burn-in half")
    data_chunk: Count | None = Field(None, description="examples per pass of a gradient, where memory is short")
    kernel: Literal["nuts", "hmc"] = Field("nuts", description="sampler pyro: which of its kernels")
    force: bool = Field(False, description="sampler pyro: also above 5,000 parameters")

    integrator: Literal["baoa", "sghmc"] = Field("baoa", description="sampler sghmc: splitting, or the recurrence")
    lr: Auto | Positive = Field("auto", description="lr0 of SGD on the mean loss; auto: 0.1, transformers 0.01")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD; 1 - momentum is the friction")
    batch_size: Count = Field(128, description="examples per gradient")
    cycles: Count | None = Field(None, description="M, cycles of the learning rate")
    cycle_epochs: Count | None = Field(None, description="nominal passes per cycle, scaled by the protocol's budget")
    explore: float = Field(0.8, ge=0, lt=1, description="share of a cycle without noise and without snapshots")
    schedule: Literal["held", "cosine"] = Field(
        "held", description="learning rate while sampling: held where exploring ended, or falling on to 0"
    )
    snapshots: Count = Field(5, description="states per cycle that are stored")
    precondition: Literal["auto", "none", "rmsprop"] = Field(
        "auto", description="rmsprop: inverse masses from mean squared gradients, frozen while sampling; auto: for ViTs"
    )
    augment: bool = Field(False, description="training augmentation while sampling, which tempers the posterior")

    strict: bool = Field(False, description="R-hat must be below 1.01 for `converged`, not below 1.05")

    @model_validator(mode="after")
    def _fits_together(self) -> SamplingConfig:
        if self.keep is not None and self.samples is not None and self.keep > self.samples:
            raise ValueError(f"keep {self.keep} states of {self.samples} samples per chain; legal: 1..{self.samples}")
        if self.mass == "diag" and self.burn_in is not None and self.burn_in < FEWEST_FOR_MASS:
            raise ValueError(
                f"mass 'diag' is estimated in a quarter of the burn-in, and burn_in is {self.burn_in}; legal: burn_in "
                f"from {FEWEST_FOR_MASS}, or mass: unit"
            )
        if self.mass == "diag" and self.sampler == "pyro":
            raise ValueError("sampler 'pyro' has unit masses here; set mass: unit, or sampler: hmc")
        if self.sampler in ("hmc", "pyro") and self.augment:
            raise ValueError(
                f"sampler '{self.sampler}' needs the plain training split, whose likelihood is one function; set "
                "augment: false, or sampler: sghmc"
            )
        return self
