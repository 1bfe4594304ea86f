"""Settings of `mean_field` and of its companion `map_finetuned`."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from benchmark import Config, MethodConfig

REFERENCE_BATCH = 128

Scale = Annotated[float, Field(gt=0, le=10)]


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


class RelativeRms(Config):
    """sigma = value x rms of the tensor's weights: one number per tensor. An all-zero tensor falls back to `fan_in`."""

    kind: Literal["relative_rms"] = "relative_rms"
    value: Scale | None = Field(None, description="None while `sigma_search` finds it")


class Constant(Config):
    """sigma = value, everywhere."""

    kind: Literal["constant"] = "constant"
    value: Scale | None = Field(None, description="None while `sigma_search` finds it")


class FanIn(Config):
    """sigma = value / sqrt(fan_in), fan_in = elements / outputs of the tensor."""

    kind: Literal["fan_in"] = "fan_in"
    value: Scale | None = Field(None, description="None while `sigma_search` finds it")


class UniformLog(Config):
    """ln sigma of every weight drawn independently from Uniform(low, high)."""

    kind: Literal["uniform_log"] = "uniform_log"
    low: float = Field(-6.0, ge=-20, le=2, description="lower end, in nats")
    high: float = Field(-5.0, ge=-20, le=2, description="upper end, in nats")

    @model_validator(mode="after")
    def _ordered(self) -> UniformLog:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self


class RelativeAbs(Config):
    """sigma_j = max(value x |w_j|, floor x rms of the tensor), as in MOPED (Krishnan et al., AAAI 2020)."""

    kind: Literal["relative_abs"] = "relative_abs"
    value: Scale = Field(0.1, description="sigma relative to the size of the weight")
    floor: float = Field(0.01, gt=0, le=1, description="keeps weights near zero from losing all their noise")


SigmaInit = Annotated[RelativeRms | Constant | FanIn | UniformLog | RelativeAbs, Field(discriminator="kind")]
SEARCHABLE = (RelativeRms, Constant, FanIn)


class FineTuningConfig(MethodConfig):
    """The schedule that `mean_field` and `map_finetuned` share, field by field."""

    epochs: int = Field(
        12, ge=0, le=10_000, description="nominal passes over the training data, scaled by the protocol's budget"
    )
    batch_size: int = Field(128, ge=1, le=65_536, description="examples per optimiser step")
    optim_mu: Literal["auto", "sgd", "adam"] = Field(
        "auto", description="sgd: momentum 0.9, Nesterov. auto: adam when the base run used an Adam family, else sgd"
    )
    lr_mu: Literal["auto"] | Annotated[float, Field(gt=0, le=10)] = Field(
        "auto",
        description=(
            "peak rate for batches of 128, scaled linearly with batch_size; cosine to 0. auto: 1e-3 (sgd), 1e-5 (adam)"
        ),
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


class MeanFieldConfig(FineTuningConfig):
    """Settings of `mean_field`. The defaults are the preset `recommended`.

    `posthoc`: no training, only the search for sigma around the base network. `tempered`: a tenth of the KL term.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "posthoc": {"epochs": 0, "sigma_rescale": False},
        "tempered": {"kl_temperature": 0.1},
    }

    select: Literal["weights", "all", "head"] | NamePatterns = Field(
        "weights",
        description=(
            "the Bayesian parameters. weights: matrices and filters of linear, convolution, embedding and "
            "attention layers. all: every parameter. head: weight and bias of the last linear layer"
        ),
    )
    train_rest: bool = Field(
        True,
        description="train the other parameters too, as point values; false keeps them as they are in the base network",
    )
    sigma_init: SigmaInit = Field(RelativeRms(), description="where sigma starts")
    sigma_search: bool = Field(
        True, description="choose `sigma_init.value` by the likelihood of validation data, around the base network"
    )
    sigma_rescale: bool = Field(
        True,
        description=(
            "after the fit, try common factors on sigma on validation data; 1 is kept unless another is clearly better"
        ),
    )
    travel: float = Field(
        1.0,
        ge=0,
        le=20,
        description="how far, in nats, Adam can carry ln sigma at most; sets its rate. 0 keeps sigma where it starts",
    )
    clamp: bool = Field(True, description="keep ln sigma within [-20, ln(prior sd) + 0.5] after every step")
    prior_mean: Literal["zero", "pretrained"] = Field(
        "zero", description="centre of the prior: zero, or the base network's weights (MOPED)"
    )
    n_data: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="N of the ELBO; auto: the training examples. Another number tempers the posterior"
    )
    kl_temperature: float = Field(
        1.0, gt=0, le=100, description="factor on the KL term; other than 1, the posterior is tempered"
    )
    encoding: Literal["sigma_aware", "raw"] = Field(
        "sigma_aware",
        description=(
            "sigma_aware: means and deviations on grids as coarse as sigma allows, entropy-coded. raw: float32, exact"
        ),
    )

    @model_validator(mode="after")
    def _fits_together(self) -> MeanFieldConfig:
        if self.epochs == 0 and not self.sigma_search:
            raise ValueError("epochs 0 leaves nothing to do with sigma_search false; set epochs or sigma_search: true")
        init = self.sigma_init
        if not isinstance(init, SEARCHABLE):
            if self.sigma_search:
                raise ValueError(
                    f"sigma_search has no value to search for with sigma_init.kind '{init.kind}'; "
                    "set sigma_search: false, or a kind out of relative_rms, constant, fan_in"
                )
        elif self.sigma_search and init.value is not None:
            raise ValueError(
                f"sigma_search finds sigma_init.value, which is set to {init.value}; "
                "remove the value or set sigma_search: false"
            )
        elif not self.sigma_search and init.value is None:
            raise ValueError("sigma_search false needs sigma_init.value; give a value or set sigma_search: true")
        return self


class MapFinetunedConfig(FineTuningConfig):
    """Settings of `map_finetuned`: those of `mean_field` that a point mass has."""

    epochs: int = Field(
        12, ge=1, le=10_000, description="nominal passes over the training data, scaled by the protocol's budget"
    )
