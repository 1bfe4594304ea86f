"""Settings of the task imagenet."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from benchmark import Config

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Of a folder with out-of-distribution images."""


class ImageNetConfig(Config):
    """Settings of the task imagenet."""

    image_size: int = Field(224, ge=32, multiple_of=8, description="side of the inputs in pixels")
    augment: Literal["none", "standard", "deit"] = Field(
        "standard",
        description=(
            "training augmentation. none: training images are read as test images are. standard: random crop of 8 to "
            "100 % of the area, bilinear, and flip. deit: the same crop, bicubic, flip, RandAugment "
            "rand-m9-mstd0.5-inc1 and random erasing 0.25; mixing of examples is the method's"
        ),
    )
    test_resize: int | Literal["auto"] = Field(
        "auto",
        description=(
            "shorter side in pixels to which an image is resized before its centre is cut out, at test time. auto: 256 "
            "for image_size 224, in this proportion. Published weights were evaluated at: 256 torchvision V1; 232 "
            "torchvision ResNet V2; 248 bicubic timm DeiT and ViT (crop 0.9); 236 bicubic timm ResNet a1 (crop 0.95)"
        ),
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(
        "bilinear",
        description="of that resizing; torchvision's weights: bilinear, timm's: bicubic",
    )
    val_per_class: int = Field(
        10, ge=0, description="images per class that are held out of train/ for validation; 0: no validation split"
    )
    source: Literal["files", "cache"] = Field(
        "files",
        description=(
            "what images are decoded from. cache: images decoded once by `bnnbench data prepare imagenet-cache-SIDE`, "
            "several times faster, with slightly other numbers, because crops are made of smaller images"
        ),
    )
    cache_side: int = Field(
        256,
        ge=32,
        description="with source: cache, the shorter side of the cached images in pixels; at least that of test_resize",
    )
    ood: tuple[str, ...] = Field(
        (), description="names of folders ROOT/ood/NAME with images that belong to none of the classes"
    )
    shift_examples: int = Field(
        2000, ge=0, description="test examples that ImageNet-C is read for, the same under every corruption; 0: all"
    )

    @field_validator("ood")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"'{name}' is not the name of a folder in ood/: letters, digits, '.', '_' and '-'")
        return tuple(sorted(set(names)))

    @model_validator(mode="after")
    def _sides_fit(self) -> Self:
        side, resized = self.image_size, self.resized
        if resized < side:
            raise ValueError(
                f"test_resize {resized} leaves less than image_size {side} to cut out: set it to at least {side}, or "
                f"to auto ({usual_resize(side)})"
            )
        if self.source == "cache" and self.cache_side < resized:
            raise ValueError(
                f"cache_side {self.cache_side} is smaller than test images are read ({resized} pixels on the shorter "
                f"side): set it to at least {resized}, or use source: files"
            )
        return self

    @property
    def resized(self) -> int:
        """Shorter side of a test image before its centre is cut out, in pixels."""
        return usual_resize(self.image_size) if self.test_resize == "auto" else self.test_resize

    def identity(self) -> dict[str, Any]:
        """`auto` and the number that it stands for are the same settings."""
        return {**super().identity(), "test_resize": self.resized}


def usual_resize(side: int) -> int:
    """256 for 224, in proportion."""
    return round(side * 256 / 224)
