"""Settings of `mc_dropout`: the training recipe of `map`, a rate, and the layers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from methods.map.config import TrainingConfig


class McDropoutConfig(TrainingConfig):
    """Settings of `mc_dropout`.

    Layers are counted in the order in which a forward pass runs them. The first one is left out of the default: its
    inputs are the image's channels, and to drop the only channel of a grey image is to drop the image.
    """

    rate: float = Field(0.05, gt=0, lt=1, description="p, probability that an input channel of a layer is dropped")
    where: Literal["all", "all_but_first", "last_half", "head"] = Field(
        "all_but_first", description="linear and convolution layers whose inputs are dropped; head: the last one run"
    )
