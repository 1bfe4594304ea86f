"""Settings of `last_block_ensemble`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from methods.finetuning.config import FineTuningConfig, Rate

_PUBLISHED: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 256,
    "optim_mu": "sgd",
    "lr_mu": 1e-3,
    "lr_rest": 1e-4,
    "nesterov": False,
    "alpha": 1.0,
    "gamma": 0.5,
    "noise_low": 0.5,
    "noise_high": 2.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    # ImageNet and face recognition, as published; the strength of the prior comes from the base run but for faces.
    "paper": _PUBLISHED,
    "paper_face": {**_PUBLISHED, "epochs": 4, "alpha": 100.0, "gamma": 1.0, "noise_low": 1.0, "blur": 0.0, "l2": 5e-4},
}


class LastBlockEnsembleConfig(FineTuningConfig):
    """Settings of `last_block_ensemble`. The defaults are the preset `recommended`, made for small tasks.

    There the published settings leave all members equal: on digits with resnet20 their distance ends at 3e-11.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    epochs: int = Field(
        24, ge=1, le=10_000, description="nominal passes over the training data, scaled by the protocol's budget"
    )
    batch_size: int = Field(
        64,
        ge=2,
        le=65_536,
        description=(
            "training examples per optimiser step: the first half of them (rounded up) as they are, for the "
            "likelihood; the second half with noise and without their labels, for the disagreement. Half of an "
            "epoch's examples, other ones in each epoch, are noisy"
        ),
    )
    micro_batch: int | None = Field(
        None,
        ge=2,
        description=(
            "examples per forward pass, halved in the same way; None: the whole batch. Batch statistics are those of "
            "one pass, in the last block those of its 1.5 times as many rows"
        ),
    )
    lr_mu: Literal["auto"] | Rate = Field(
        "auto",
        description=(
            "peak rate of the copies. auto: 0.005 C (sgd; a copy has a C-th of the gradient of the data) or 1e-3 (adam)"
        ),
    )
    schedule_mu: Literal["cosine", "constant"] = Field(
        "cosine", description="course of lr_mu, the rate of the copies; cosine ends at a tenth of it"
    )
    lr_rest: Literal["auto"] | Rate = Field(
        "auto",
        description="constant rate of the weights that the members share. auto: 0.01 (sgd) or 1e-4 (adam)",
    )
    components: int = Field(20, ge=2, le=1000, description="C, the copies of the last block; all start at its weights")
    blocks: int = Field(1, ge=1, le=1000, description="how many blocks before the head are copied")
    alpha: float = Field(0.3, ge=0, le=1e6, description="weight of the disagreement on noisy inputs; 0: none asked for")
    gamma: Literal["auto"] | Annotated[float, Field(gt=0, le=1e6)] = Field(
        "auto",
        description=(
            "mean squared difference of two members' features from which on they disagree enough; its expectation is "
            "twice the score, the variance over members. auto: 2.5 times the mean square of the base network's "
            "features, so much that members that disagree on clean examples lose likelihood"
        ),
    )
    noise_low: float = Field(
        4.0, ge=0, le=16, description="least strength of the uniform noise on an image, in units of 16/255 of the range"
    )
    noise_high: float = Field(
        8.0, gt=0, le=16, description="greatest strength of the uniform noise, in units of 16/255 of the input range"
    )
    blur: float = Field(0.03, ge=0, le=1, description="share of the noisy images that a Gaussian filter blurs as well")
    assignment: Literal["per_example", "per_batch"] = Field(
        "per_example", description="members are drawn for every example on its own; per_batch is refused"
    )

    @field_validator("assignment")
    @classmethod
    def _breaks_the_symmetry(cls, assignment: str) -> str:
        if assignment == "per_batch":
            raise ValueError(
                "'per_batch' cannot work: all copies start equal, where their disagreement is 0 and has no gradient, "
                "and only examples that go to different members in one step make them differ. Use per_example"
            )
        return assignment

    @model_validator(mode="after")
    def _ordered(self) -> LastBlockEnsembleConfig:
        if self.noise_low > self.noise_high:
            raise ValueError(f"noise_low ({self.noise_low}) must not be above noise_high ({self.noise_high})")
        return self
