"""Settings of training a network to a point: shared by `map` and by methods that train with the same recipe."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from benchmark import MethodConfig
from methods.map.presets import PRESETS

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class TrainingConfig(MethodConfig):
    """A recipe for training from initialisation to one set of weights.

    `auto` depends on the network: SGD with Nesterov momentum where there is batch norm, AdamW elsewhere
    (transformers, plain perceptrons), each with its usual rate and decay (`methods.map.recipe`).
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    epochs: int = Field(
        20,
        ge=0,
        description=(
            "passes over the training split, before the protocol's budget factor. 0: no training, the network as it "
            "starts (pretrained weights as they are); optimiser and weight_decay then say how those were trained"
        ),
    )
    batch_size: int = Field(64, ge=1, description="examples per optimiser step")
    accumulate: int = Field(
        1,
        ge=1,
        description=(
            "equal parts in which the gradient of a batch is computed, to save memory: exactly the gradient of the "
            "mean loss, up to rounding, without batch norm; with it, statistics are those of a part. mixup and cutmix "
            "mix within a part. Several devices take equal numbers of parts"
        ),
    )
    optimiser: Literal["auto", "sgd", "adamw"] = Field(
        "auto", description="sgd: Nesterov momentum 0.9, coupled L2; adamw: decoupled decay; auto: sgd with batch norm"
    )
    lr: Auto | Positive = Field("auto", description="peak learning rate")
    weight_decay: Auto | NonNegative = Field(
        "auto", description="sgd: coefficient of the L2 gradient; adamw: decoupled decay; not on norms and biases"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="mass taken from the label and spread over all classes")
    mixup: float = Field(
        0.0,
        ge=0,
        le=100,
        description="a of mixup's Beta(a, a), one draw per batch, or part of one; 0: none. With cutmix: a coin decides",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=100,
        description="a of CutMix's Beta(a, a), one draw per batch, or part of one; 0: none. Labels follow the area",
    )
    clip_norm: float | None = Field(
        None, gt=0, description="largest global norm of a batch's gradient (before the decay); None: no clipping"
    )
    schedule: Literal["cosine", "steps", "constant"] = Field("cosine", description="course of the rate after warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps over which the rate rises linearly")
    min_lr: float = Field(0.0, ge=0, le=1, description="schedule `cosine`: where the rate ends, as a share of the peak")
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
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "decay per step of an exponential moving average of weights and running statistics, at most (1+t)/(10+t) "
            "at step t. Validation, selection and the result use the average; 0: none"
        ),
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description=(
            "of training passes on a GPU; fp16 with loss scaling; no effect on the CPU. Weights, optimiser state and "
            "validation are float32"
        ),
    )

    @model_validator(mode="after")
    def _check_together(self) -> TrainingConfig:
        if self.patience is not None and self.select == "last":
            raise ValueError("'patience' watches the validation NLL, 'select: last' ignores it; drop one of the two")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"'milestones' must ascend, got {list(self.milestones)}")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"'accumulate: {self.accumulate}' asks for more parts than 'batch_size: {self.batch_size}' has examples"
            )
        return self


class MapConfig(TrainingConfig):
    """Settings of `map`."""

    member: int = Field(0, ge=0, description="number of an independent initialisation and data order; for ensembles")
