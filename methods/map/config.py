"""Settings of training a network to a point: shared by `map` and by methods that train with the same recipe."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from benchmark import MethodConfig

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]

WRN_RECIPE: dict[str, Any] = {
    "epochs": 200,
    "batch_size": 256,
    "optimiser": "sgd",
    "lr": 0.1,
    "weight_decay": 2e-4,
    "warmup": 0.0,
    "schedule": "steps",
    "milestones": (0.3, 0.6, 0.8),
    "step_factor": 0.2,
    "select": "last",
}
"""The base networks of BayesAdapter (arXiv 2010.01979): WRN-28-10 on CIFAR, rate times 0.2 at epochs 60, 120 and 160.
Two differences: norms and biases do not decay, and flip, crop and CutOut are the task's augmentation, not ours."""


class TrainingConfig(MethodConfig):
    """A recipe for training from initialisation to one set of weights.

    `auto` depends on the network: SGD with Nesterov momentum where there is batch norm, AdamW elsewhere
    (transformers, plain perceptrons), each with its usual rate and decay (`methods.map.recipe`).
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {"wrn": WRN_RECIPE}

    epochs: int = Field(20, ge=1, description="passes over the training split, before the protocol's budget factor")
    batch_size: int = Field(64, ge=1, description="examples per optimiser step")
    optimiser: Literal["auto", "sgd", "adamw"] = Field(
        "auto", description="sgd: Nesterov momentum 0.9, coupled L2; adamw: decoupled decay; auto: sgd with batch norm"
    )
    lr: Auto | Positive = Field("auto", description="peak learning rate")
    weight_decay: Auto | NonNegative = Field(
        "auto", description="sgd: coefficient of the L2 gradient; adamw: decoupled decay; not on norms and biases"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="mass taken from the label and spread over all classes")
    schedule: Literal["cosine", "steps", "constant"] = Field("cosine", description="course of the rate after warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps over which the rate rises linearly")
    milestones: tuple[Fraction, ...] = Field(
        (0.3, 0.6, 0.8), description="schedule `steps`: shares of training after which the rate drops, ascending"
    )
    step_factor: float = Field(0.2, gt=0, le=1, description="schedule `steps`: factor on the rate at each milestone")
    select: Literal["best", "last"] = Field(
        "best", description="which epoch's weights are kept: lowest validation NLL, or the last (always, without val)"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a lower validation NLL; needs select: best"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: autocast of training passes on CUDA; no effect on the CPU; validation is fp32"
    )

    @model_validator(mode="after")
    def _check_together(self) -> TrainingConfig:
        if self.patience is not None and self.select == "last":
            raise ValueError("'patience' watches the validation NLL, 'select: last' ignores it; drop one of the two")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"'milestones' must ascend, got {list(self.milestones)}")
        return self


class MapConfig(TrainingConfig):
    """Settings of `map`."""

    member: int = Field(0, ge=0, description="number of an independent initialisation and data order; for ensembles")
