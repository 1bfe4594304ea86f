"""Settings of `mean_field`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from benchmark import Config
from methods.finetuning.config import FineTuningConfig, Which
from methods.mean_field.presets import PRESETS

HIGHEST_PSI = 2.0

Scale = Annotated[float, Field(gt=0, le=10)]


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
    low: float = Field(-6.0, ge=-20, description="lower end, in nats, at most 2")
    high: float = Field(-5.0, ge=-20, description="upper end, in nats, at most 2")

    @model_validator(mode="after")
    def _ordered(self) -> UniformLog:
        if max(self.low, self.high) > HIGHEST_PSI:
            raise ValueError(
                f"low ({self.low}) and high ({self.high}) are ln sigma: noise of e^{max(self.low, self.high)} leaves "
                f"nothing of a weight. Legal: at most {HIGHEST_PSI}; published: low -6, high -5 (mind the sign)"
            )
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


class MeanFieldConfig(FineTuningConfig):
    """Settings of `mean_field`. The defaults are the preset `recommended`; others are in `presets.py`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    select: Which = Field(
        "weights",
        description=(
            "the Bayesian parameters. weights: matrices and filters of linear, convolution, embedding and "
            "attention layers. paper: weights and biases of linear, 2-d convolution, 2-d batch norm and PReLU layers. "
            "all: every parameter. head: weight and bias of the last linear layer. last_blocks:K: the last K blocks "
            "before the head. Or {include: [PATTERN, ..], exclude: [PATTERN, ..]} by name"
        ),
    )
    train_rest: bool = Field(
        True,
        description="train the other parameters too, as point values; false keeps them as they are in the base network",
    )
    estimator: Literal["shared", "exemplar", "flipout", "local"] = Field(
        "shared",
        description=(
            "noise of a training step. shared: one weight sample for the batch. exemplar: one per example. flipout: "
            "one sample with random signs per example. local: noise on the outputs of layers, another model where "
            "outputs share weights"
        ),
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
    optim_psi: Literal["adam", "sgd"] = Field(
        "adam", description="optimiser of psi = ln sigma; sgd (momentum 0.9) hardly moves psi, as published"
    )
    lr_psi: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="peak rate of psi; None: set by `travel`"
    )
    schedule_psi: Literal["cosine", "constant", "steps"] = Field(
        "cosine",
        description="course of lr_psi. cosine: to a tenth. steps: times factor_psi after 1/4, 1/2 and 3/4 of the steps",
    )
    factor_psi: float = Field(0.1, gt=0, le=1, description="schedule_psi `steps`: factor on lr_psi at every milestone")
    travel: float | None = Field(
        default_factory=lambda given: None if given.get("lr_psi") or given.get("optim_psi") == "sgd" else 1.0,
        ge=0,
        le=20,
        description=(
            "how far, in nats, Adam can carry ln sigma at most; sets its rate. 0 keeps sigma where it starts. "
            "Default 1, None where lr_psi is given"
        ),
    )
    clamp: bool = Field(True, description="keep ln sigma within [-20, ln(prior sd) + 0.5] after every step")
    prior_mean: Literal["zero", "pretrained"] = Field(
        "zero", description="centre of the prior: zero, or the base network's weights (MOPED)"
    )
    n_data: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="N of the ELBO; auto: the training examples. Another number tempers the posterior"
    )
    prior_scale: Literal["l2", "layer_std"] = Field(
        "l2",
        description=(
            "standard deviation of the prior. l2: 1/sqrt(lambda N), as the base network was regularised. layer_std: "
            "that of the base network's tensor"
        ),
    )
    kl_temperature: Literal["auto"] | Annotated[float, Field(gt=0, le=100)] = Field(
        1.0,
        description=(
            "factor on the KL term; other than 1, the posterior is tempered. auto: min(1, N / (4 Bayesian weights)), "
            "for networks with far more weights than there are data"
        ),
    )
    kl_ramp: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which the KL term rises from a hundredth to its full weight"
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description="epoch that is kept. best: lowest validation NLL (8 draws), the start of the training included",
    )
    extra_mu_decay: float = Field(
        0.0, ge=0, le=100, description="a second L2 coefficient on the Bayesian means, as the released demo has it"
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
        self._check_sigma()
        self._check_psi()
        return self

    def _check_sigma(self) -> None:
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

    def _check_psi(self) -> None:
        if self.travel is not None and self.lr_psi is not None:
            raise ValueError(
                f"lr_psi ({self.lr_psi}) and travel ({self.travel}) both set the rate of psi; give one of them"
            )
        if self.lr_psi is None and self.schedule_psi != "cosine":
            raise ValueError(
                f"schedule_psi '{self.schedule_psi}' is the course of lr_psi, which is not given; give it, or leave "
                "schedule_psi out: the way that travel bounds has a course of its own"
            )
        if self.optim_psi == "sgd":
            if self.travel is not None:
                raise ValueError(
                    f"travel ({self.travel}) bounds the way of optim_psi 'adam', whose steps do not depend on the "
                    "gradient's size; with 'sgd' give lr_psi"
                )
            if self.lr_psi is None:
                raise ValueError("optim_psi 'sgd' needs lr_psi")
        elif self.travel is None and self.lr_psi is None:
            raise ValueError("optim_psi 'adam' needs travel or lr_psi")
