"""Settings of the sharing itself: what becomes an outlier, how the rest is clustered, merged and blended."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from benchmark import Config

MOST_COMPONENTS = 65_535
"""Labels are stored as 16-bit numbers."""
MOST_CELLS = 1 << 22
"""Of the grid, with nine sums each: 300 MB."""

Components = Annotated[int, Field(ge=1, le=MOST_COMPONENTS)]


class SharingSettings(Config):
    """How (mu, sigma) of N weights become K shared Gaussians. The defaults are the preset `recommended`."""

    scope: Literal["scaled", "global", "layer"] = Field(
        "scaled",
        description=(
            "which weights may share. scaled: all, each tensor in units of the base tensor's standard deviation. "
            "global: all, as they are. layer: one codebook per tensor (tensors below 4096 weights have one together)"
        ),
    )
    cluster: Literal["kl", "gmm", "kmeans"] = Field(
        "kl",
        description=(
            "kl: least mean KL divergence from a weight's Gaussian to the shared one. gmm: full-covariance EM in the "
            "plane (mu, ln sigma). kmeans: Lloyd's algorithm in the standardised plane"
        ),
    )
    components: Literal["auto"] | Components | None = Field(
        "auto",
        description="K, shared Gaussians per codebook. auto: 256, at most N/50. None: only the thresholds of w2 decide",
    )
    components_init: Literal["auto"] | Components = Field(
        "auto",
        description="clusters before merging. auto: max(512, 4 K) for kl, 2048 otherwise, at most N/50; never below K",
    )
    backend: Literal["auto", "sklearn", "cuml"] = Field(
        "auto", description="of kmeans. auto: cuml on a GPU where it is installed, else sklearn"
    )
    em_iterations: int = Field(20, ge=1, le=10_000, description="gmm: most EM iterations")
    grid: tuple[Annotated[int, Field(ge=2, le=65_536)], Annotated[int, Field(ge=2, le=65_536)]] = Field(
        (2048, 64), description="cells that points are binned into, along mu and along ln sigma; at most 2^22 in all"
    )
    outliers: Literal["kl", "gradient"] = Field(
        "kl",
        description=(
            "who keeps a Gaussian of its own. kl: the outlier_fraction that sharing would cost most. gradient: the "
            "outlier_fraction of largest epoch-mean |gradient|, whatever has |mu| > outlier_size, and clusters of at "
            "most outlier_cluster members"
        ),
    )
    outlier_fraction: float = Field(0.001, ge=0, le=0.5, description="share of the weights that become outliers")
    outlier_size: float | None = Field(None, gt=0, description="tau_w, outliers by size: |mu| above it; None: none")
    outlier_cluster: int = Field(
        20,
        ge=0,
        le=1_000_000,
        description="rule gradient, gmm and kmeans: members up to which a k-means cluster is dissolved into outliers",
    )
    merge: Literal["ward", "w2", "none"] = Field(
        "ward",
        description=(
            "ward: pairs whose merging costs least KL, down to `components`. w2: pairs closer than tau_d in "
            "2-Wasserstein distance and within tau_g and tau_v, until none is left"
        ),
    )
    tau_d: float | None = Field(None, ge=0, description="w2: largest distance, absolute; None: kappa sqrt(b_i b_j)")
    kappa: float = Field(0.25, ge=0, description="w2: largest distance relative to sqrt(b_i b_j), where tau_d is None")
    tau_g: float | None = Field(1e-4, ge=0, description="w2: largest predicted change of the loss; None: any")
    tau_v: float | None = Field(0.2, ge=0, description="w2: largest |ln b_i - ln b_j|; None: any")
    ellipse_quantile: float = Field(
        0.95, gt=0, lt=1, description="probability inside a cluster's ellipse; who is outside is an ellipse point"
    )
    blend: Literal["off", "moments"] = Field(
        "off",
        description="ellipse points. off: counted only. moments: a mixture of their two most probable clusters",
    )

    @model_validator(mode="after")
    def _merge_reaches_components(self) -> SharingSettings:
        if self.components is None and self.merge != "w2":
            raise ValueError(
                f"components null leaves the number to the thresholds of merge 'w2', and merge is '{self.merge}'; "
                "give components, or set merge: w2"
            )
        if isinstance(self.components, int) and isinstance(self.components_init, int):
            self._check_start(self.components, self.components_init)
        return self

    @model_validator(mode="after")
    def _grid_fits_into_memory(self) -> SharingSettings:
        if math.prod(self.grid) > MOST_CELLS:
            raise ValueError(
                f"grid {list(self.grid)} has {math.prod(self.grid):,} cells; legal: at most {MOST_CELLS:,}, as in "
                "[16384, 256]"
            )
        return self

    def _check_start(self, components: int, start: int) -> None:
        if start < components:
            raise ValueError(
                f"components_init ({start}) is below components ({components}): merging only lowers the number"
            )
