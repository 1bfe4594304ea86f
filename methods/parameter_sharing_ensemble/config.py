"""Settings of `parameter_sharing_ensemble`, and the published ones as presets."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from methods.finetuning.config import FineTuningConfig, Rate, Which

_PAPER: dict[str, Any] = {
    "batch_size": 256,
    "micro_batch": 32,
    "assignment": "per_example",
    "select": "paper",
    "spread_search": False,
    "optim_mu": "sgd",
    "lr_mu": 1e-4,
    "schedule_mu": "constant",
    "precision": "fp16",
}

PRESETS: dict[str, dict[str, Any]] = {
    # The published rows: CIFAR-10; ImageNet and faces. `micro_batch: 32` gives the batch statistics and the memory of
    # the paper's eight devices.
    "paper": {**_PAPER, "epochs": 12, "spread": 0.2},
    "paper_imagenet": {**_PAPER, "epochs": 4, "spread": 0.1, "nesterov": False},
    # No training: the base network's weights times random factors, their spread chosen on validation data.
    "posthoc": {"epochs": 0},
}


class ParameterSharingEnsembleConfig(FineTuningConfig):
    """Settings of `parameter_sharing_ensemble`. The defaults are the preset `recommended`.

    The optimiser, rate and schedule of the means (`optim_mu`, `lr_mu`, `schedule_mu`) are those of the shared weights
    and of everything else that components share; the factors L and R have `lr_factors`.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    components: int = Field(20, ge=1, le=1000, description="C, the number of networks in the ensemble")
    rank: int = Field(1, ge=1, le=256, description="r: a component's factors L (rows x r) and R (r x columns)")
    spread: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None,
        description="s, the standard deviation of what multiplies a weight at the start; None while `spread_search` "
        "finds it",
    )
    spread_search: bool = Field(
        True, description="choose `spread` by the likelihood of validation data under untrained components"
    )
    assignment: Literal["per_batch", "per_example"] = Field(
        "per_batch",
        description=(
            "which component a training example sees. per_batch: all examples of a step the same one. per_example: "
            "each one its own, with batch x weights numbers in a convolution's memory while it is computed"
        ),
    )
    lr_factors: Rate = Field(1e-3, description="peak rate of L and R (sgd, momentum 0.9); cosine to a tenth")
    select: Which = Field(
        "weights",
        description=(
            "the layers that differ between components: of these parameters, the weights of linear and convolution "
            "layers. weights or all: every such layer. paper: linear and 2-d convolution layers. head: the last "
            "linear layer. last_blocks:K: the last K blocks before the head. Or {include: [PATTERN, ..], exclude: "
            "[PATTERN, ..]} by name. Components share all other parameters, which are trained too"
        ),
    )

    @model_validator(mode="after")
    def _fits_together(self) -> ParameterSharingEnsembleConfig:
        if self.spread_search and self.spread is not None:
            raise ValueError(
                f"spread_search finds spread, which is set to {self.spread}; remove spread or set spread_search: false"
            )
        if not self.spread_search and self.spread is None:
            raise ValueError("spread_search false needs spread; give it or set spread_search: true")
        if self.epochs == 0 and not self.spread_search:
            raise ValueError("epochs 0 with spread_search false leaves nothing to do; set either of them")
        return self
