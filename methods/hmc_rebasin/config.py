"""Settings of the summaries of samples: what is summarised, how samples are aligned before, and what is looked at."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from benchmark import MethodConfig
from methods.hmc.config import SamplingConfig
from methods.hmc_rebasin.choices import Encoding, Rule, Scope
from methods.hmc_rebasin.presets import PRESETS
from methods.map_quantised.config import RunOf
from methods.symmetry.choices import MatchBy, Reference, WithinHead

Experiment = Literal["transpositions", "barriers", "performance", "pruning", "planted"]


class SummaryConfig(MethodConfig):
    """Of a summary without alignment: which samples, what is kept of them, how it is stored."""

    sampling: dict[str, JsonValue] = Field(
        {}, description="settings of the run of `hmc` whose samples are summarised, as in a study"
    )
    rank: int = Field(0, ge=0, le=10_000, description="r, directions in which draws are correlated; 0: none")
    encoding: Encoding = Field(
        "grid", description="grid: mean and sigma on entropy-coded grids. fp16, fp32: as they are, to compare with"
    )
    prune: float | None = Field(
        None, gt=0, le=100, description="per cent of the parameters that are kept, the others are 0. None: all"
    )
    prune_rule: Rule = Field(
        "snr", description="who is kept: large |mu|/sigma, small sigma (the paper's) or large |mu|"
    )
    prune_scope: Scope = Field("all", description="what is ranked: all parameters, or weights of layers only")
    repair: bool = Field(
        False, description="rescale the channels of the mean network to the samples' (networks without batch norm)"
    )

    @field_validator("sampling")
    @classmethod
    def _is_sampling(cls, given: dict[str, Any]) -> dict[str, Any]:
        """In the shortest spelling, so that two of the same settings are one run."""
        return SamplingConfig(**given).model_dump(mode="json", exclude_defaults=True, exclude={"preset"})


class AlignedConfig(SummaryConfig):
    """Of a summary of aligned samples."""

    matching: MatchBy = Field(
        "weight", description="what is compared: all weights, activations, or cosines of first-layer rows"
    )
    normalise: Literal["none", "corr"] = Field("none", description="matching activation: products, or correlations")
    reference: Reference = Field(
        "iter_mean",
        description="who is matched to: the mean of the aligned, again and again, or once as the paper does",
    )
    restarts: int = Field(5, ge=1, le=1000, description="starts of the first match of two samples, the best is kept")
    within_head: WithinHead = Field(
        "procrustes", description="inside attention heads: rotate, permute only, or leave alone"
    )


class RebasinConfig(AlignedConfig):
    """Settings of `hmc_rebasin`. The defaults are the preset `recommended`; others are in `presets.py`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    experiments: tuple[Experiment, ...] = Field(
        ("transpositions", "barriers", "performance", "pruning"),
        description="what is looked at on validation data, each a figure with its numbers: transpositions by lag, loss "
        "barriers between samples, predictions of the summaries, accuracy against pruning, planted permutations",
    )
    compare: tuple[RunOf, ...] = Field(
        (), description="runs whose posteriors are aligned to this one and compared weight by weight"
    )

    @model_validator(mode="after")
    def _no_experiment_twice(self) -> RebasinConfig:
        if len(set(self.experiments)) < len(self.experiments):
            raise ValueError(f"experiments lists one twice: {', '.join(self.experiments)}; name each once")
        return self
