"""Settings of `ivon`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from methods.finetuning.config import FineTuningConfig, Rate, Which
from methods.mean_field.config import Constant, FanIn, RelativeRms

_PUBLISHED: dict[str, Any] = {
    "start": "scratch",
    "epochs": 200,
    "select": "all",
    "sigma_search": False,
    "sigma_rescale": False,
    "encoding": "raw",
}

PRESETS: dict[str, dict[str, Any]] = {
    # Training from an initialisation with the numbers of the released code. Learning rates start at their peak.
    "from_scratch": {**_PUBLISHED, "batch_size": 50, "lr": 0.2, "beta2": 0.99999, "l2": 2e-4, "hess_init": 0.5},
    "from_scratch_imagenet": {
        **_PUBLISHED,
        "batch_size": 1024,
        "lr": 2.5,
        "beta2": 0.999995,
        "l2": 5e-5,
        "hess_init": 0.05,
    },
}

SigmaInit = Annotated[RelativeRms | Constant | FanIn, Field(discriminator="kind")]
"""The rules with one sigma per tensor: IVON's rate and starting curvature are one number each per tensor."""


class IvonConfig(FineTuningConfig):
    """Settings of `ivon`. The defaults are the preset `recommended`: fine-tuning of the base network."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    start: Literal["base", "scratch"] = Field(
        "base", description="base: the trained base network. scratch: a fresh initialisation, no run is needed"
    )
    epochs: int = Field(
        12, ge=1, le=10_000, description="nominal passes over the training data, scaled by the protocol's budget"
    )
    select: Which = Field("weights", description="the Bayesian parameters, as in `mean_field`")
    train_rest: bool = Field(True, description="train the other parameters too, as point values")
    lr: Rate = Field(0.1, description="peak rate of IVON; 0.1 moves the means at first like momentum SGD at 0.01")
    beta2: Literal["auto"] | Annotated[float, Field(ge=0.5, lt=1)] = Field(
        "auto",
        description=(
            "decay of the curvature's running average. auto: 1 - 2/steps, within 0.9 and 0.99999, by which ln sigma "
            "grows by up to 1 in a fit whose data say nothing"
        ),
    )
    hess_init: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="curvature h at the start, of every tensor; None: what the starting sigma corresponds to"
    )
    sigma_init: SigmaInit = Field(RelativeRms(), description="where sigma starts, unless hess_init is given")
    sigma_search: bool = Field(
        True, description="choose `sigma_init.value` by the likelihood of validation data, around the base network"
    )
    sigma_rescale: bool = Field(
        True,
        description=(
            "after the fit, try common factors on sigma on validation data; 1 is kept unless another is clearly better"
        ),
    )
    schedule_mu: Literal["cosine", "constant"] = Field("cosine", description="course of lr and lr_mu; cosine ends at 0")
    optim_mu: Literal["auto", "sgd", "adam"] = Field(
        "sgd", description="optimiser of the parameters that are not Bayesian. auto: adam when the base run used one"
    )
    lr_mu: Literal["auto"] | Rate = Field(
        "auto",
        description=(
            "peak rate of the parameters that are not Bayesian. auto: 1e-2 (sgd) or 1e-4 (adam) for batches of 128, "
            "scaled linearly with batch_size"
        ),
    )
    encoding: Literal["sigma_aware", "raw"] = Field(
        "sigma_aware",
        description=(
            "sigma_aware: means and deviations on grids as coarse as sigma allows, entropy-coded. raw: float32, exact"
        ),
    )

    @model_validator(mode="after")
    def _fits_together(self) -> IvonConfig:
        if self.precision == "fp16":
            raise ValueError(
                "precision 'fp16' scales the loss, and IVON reads its gradients before the scale can be undone; "
                "use bf16, fp32 or auto"
            )
        if self.clip_norm is not None:
            raise ValueError(
                f"clip_norm ({self.clip_norm}) would shrink the curvature that IVON estimates from the gradient; "
                "leave it out and lower lr"
            )
        self._check_start()
        self._check_sigma()
        return self

    def _check_start(self) -> None:
        if self.start == "base":
            return
        if self.l2 == "base" or self.optim_mu == "auto":
            raise ValueError("start 'scratch' has no base run to take l2 and optim_mu from; give both")
        if self.sigma_search:
            raise ValueError(
                "sigma_search looks around a trained network, and start is 'scratch'; "
                "set sigma_search: false and give hess_init"
            )

    def _check_sigma(self) -> None:
        given = [f"hess_init ({self.hess_init})"] if self.hess_init is not None else []
        given += [f"sigma_init.value ({self.sigma_init.value})"] if self.sigma_init.value is not None else []
        given += ["sigma_search"] if self.sigma_search else []
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} decide the same thing, where sigma starts; keep one of them")
        if not given:
            raise ValueError("sigma_search false needs hess_init or sigma_init.value; give one of them")
