"""The schedule of a fine-tuning, as settings, and the selection of parameters by name."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from benchmark import Config, MethodConfig

REFERENCE_BATCH = 128

Rate = Annotated[float, Field(gt=0, le=10)]

_LAST_BLOCKS = re.compile(r"last_blocks:([1-9][0-9]*)")


class NamePatterns(Config):
    """Parameters by name: a parameter is selected when a pattern of `include` and none of `exclude` matches."""

    include: tuple[str, ...] = Field(
        min_length=1, description="regular expressions, matched against the whole parameter name"
    )
    exclude: tuple[str, ...] = Field(
        (), description="regular expressions, matched against the whole parameter name; they win over `include`"
    )

    @field_validator("include", "exclude")
    @classmethod
    def _must_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is not a regular expression ({error})") from error
        return patterns


def last_blocks(text: str) -> int | None:
    """k of `last_blocks:k`, k >= 1; None for any other text."""
    found = _LAST_BLOCKS.fullmatch(text)
    return int(found[1]) if found else None


def _is_last_blocks(text: str) -> str:
    if last_blocks(text) is None:
        raise ValueError(f"'{text}' is not a selection; legal: weights, paper, all, head, last_blocks:K with K >= 1")
    return text


LastBlocks = Annotated[str, AfterValidator(_is_last_blocks)]
Which = Literal["weights", "paper", "all", "head"] | LastBlocks | NamePatterns
"""Which parameters become Bayesian: by the kind of their layer, by position, or by name."""


class FineTuningConfig(MethodConfig):
    """The schedule that the fine-tuning methods share, field by field."""

    epochs: int = Field(
        12, ge=0, le=10_000, description="nominal passes over the training data, scaled by the protocol's budget"
    )
    batch_size: int = Field(128, ge=1, le=65_536, description="examples per optimiser step")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description=(
            "most examples per forward pass, None: the whole batch. Batch statistics are those of one pass, so this is "
            "part of the run, unlike the launcher's micro-batch, which is used only where it changes no number"
        ),
    )
    optim_mu: Literal["auto", "sgd", "adam"] = Field(
        "auto", description="optimiser of the means. auto: adam when the base run used an Adam family, else sgd"
    )
    lr_mu: Literal["auto"] | Rate = Field(
        "auto",
        description="peak rate. auto: 1e-2 (sgd) or 1e-4 (adam) for batches of 128, scaled linearly with batch_size",
    )
    schedule_mu: Literal["cosine", "constant"] = Field("cosine", description="course of lr_mu; cosine ends at 0")
    nesterov: bool = Field(True, description="Nesterov's form of the momentum (0.9) of sgd")
    clip_norm: float | None = Field(
        None, gt=0, description="largest global norm of the data's gradient of all means and points; None: no clipping"
    )
    l2: Literal["base"] | Annotated[float, Field(gt=0, le=100)] = Field(
        "base",
        description=(
            "lambda, the coefficient of the L2 term of matrices and filters; the prior variance is 1/(lambda N). "
            "base: the base run's coupled L2, or 1e-4 when it had none"
        ),
    )
    bn: Literal["train", "frozen", "reestimate"] = Field(
        "train",
        description=(
            "batch normalisation during the fit. train: batch statistics, running statistics follow. frozen: the "
            "base network's statistics (also whenever a forward pass has fewer than 16 examples). reestimate: as "
            "train, and the running statistics are averaged anew after the fit"
        ),
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description=(
            "of forward and backward passes on a GPU; the CPU computes in fp32. Weights, noise, optimiser state and "
            "predictions are float32 everywhere. auto: bf16 on a GPU that has it, else fp32. fp16: with loss scaling"
        ),
    )
