"""Settings of `2dgbnn`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from benchmark import Config
from methods.finetuning.config import FineTuningConfig, Rate
from methods.stochastic_weight_sharing.presets import PRESETS
from methods.stochastic_weight_sharing.sharing.settings import SharingSettings


class Source(Config):
    """The run whose Gaussians are shared: any method's, from the same base network."""

    method: str = Field(description="its name, e.g. mean_field, ivon, deep_ensemble")
    settings: dict[str, Any] = Field(default_factory=dict, description="its settings, as in a study")


class WeightSharingConfig(SharingSettings, FineTuningConfig):
    """Settings of `2dgbnn`. The defaults are the preset `recommended`; others are in `presets.py`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    source: Literal["before_sharing", "before_sharing_paper", "base"] | Source = Field(
        "before_sharing",
        description=(
            "where (mu, sigma) come from. before_sharing, before_sharing_paper: `mean_field` with the preset of that "
            "name and this run's prior. base: the base network, sigma = 0.02 x its tensors' standard deviation. Or "
            "{method, settings} of another run"
        ),
    )
    prior_scale: Literal["layer_std", "l2"] = Field(
        "layer_std",
        description=(
            "standard deviation of the prior. layer_std: that of the base network's tensor. l2: 1/sqrt(lambda N)"
        ),
    )
    kl_weight: Literal["auto"] | Annotated[float, Field(gt=0, le=100)] = Field(
        "auto",
        description="factor on the KL term. auto: min(1, N / (4 weights)). Other than 1 the posterior is tempered",
    )
    codebook: Literal["1d", "2d"] = Field(
        "1d",
        description="numbers of a shared Gaussian. 1d: mean and deviation. 2d: mean and covariance of (mu, ln sigma)",
    )
    sampling: Literal["independent", "tied"] = Field(
        "independent", description="noise. independent: one deviate per weight. tied: one per shared Gaussian"
    )
    tied_prior: Literal["restricted", "weak"] = Field(
        "restricted",
        description=(
            "prior of tied sampling. restricted: that of all members, restricted to the shared subspace. weak: that of "
            "one weight per shared Gaussian"
        ),
    )
    epochs: int = Field(
        10, ge=0, le=10_000, description="nominal passes over the training data after the sharing, scaled by the budget"
    )
    optim_mu: Literal["auto", "sgd", "adam"] = Field(
        "adam",
        description=(
            "optimiser of outliers' means and of what is not shared. auto: adam when the base run used an Adam family, "
            "else sgd. The shared Gaussians have adam"
        ),
    )
    lr_mu: Literal["auto"] | Rate = Field(1e-4, description="peak rate of outliers' means and of what is not shared")
    clip_norm: None = Field(None, description="not offered: a codeword's gradient is a sum over its members")
    lr_codebook: Rate = Field(
        3e-4,
        description="peak rate of the shared Gaussians and of the outliers' ln sigma; ten times more inflates them",
    )
    bn: Literal["train", "frozen", "reestimate"] = Field(
        "frozen",
        description=(
            "batch normalisation after the sharing. frozen: the statistics that `refresh` left. train: batch "
            "statistics, running ones follow. reestimate: as train, and averaged anew at the end"
        ),
    )
    refresh: bool = Field(
        True, description="average running statistics anew right after the sharing, each batch under its own draw"
    )
    keep: Literal["last", "best"] = Field(
        "best",
        description="epoch that is kept. best: lowest validation NLL (8 draws), the sharing itself included",
    )
    storage: Literal["compact", "exact"] = Field(
        "compact",
        description="outliers. compact: 16-bit means, ln sigma on a grid of 1/16 nat. exact: float32 both",
    )
