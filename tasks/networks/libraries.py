"""Declared network families that timm and torchvision build. Neither is imported before a network is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tasks.networks.pretrained import PretrainedFamily, Shape, source_among
from tasks.networks.spelling import check_library, check_listed
from tasks.networks.weight_files import Source

if TYPE_CHECKING:
    from torch import nn


class VisionTransformers(PretrainedFamily):
    """The vision transformers of the papers at their full size, as timm builds them (Dosovitskiy et al. 2021, Touvron
    et al. 2021). Patches of 16 pixels at every image size; positions are made for the size of the images."""

    forms = "deit_tiny_patch16_224, deit_small_patch16_224, vit_base_patch16_224 (patch of 16 pixels)"
    tags: ClassVar[dict[str, str]] = {
        "deit_tiny_patch16_224": "fb_in1k",
        "deit_small_patch16_224": "fb_in1k",
        "vit_base_patch16_224": "augreg2_in21k_ft_in1k",
    }
    """timm's default weights."""
    preload = ("timm",)

    def check(self, network: str) -> None:
        check_listed(network, self.tags)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        self.check(network)
        from tasks.networks import timm_adapter

        return timm_adapter.build(network, network, input_shape, n_classes)

    def source(self, network: str, tag: str) -> Source:
        return source_among(network, tag or f"timm:{self.tags[network]}", network, ("timm",))


class DenseNet(PretrainedFamily):
    """DenseNet-161, as torchvision builds it (Huang et al. 2017)."""

    forms = "densenet161 (for images from 29x29)"
    names = ("densenet161",)
    preload = ("torchvision",)

    def check(self, network: str) -> None:
        check_listed(network, self.names)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        self.check(network)
        from tasks.networks import torchvision_adapter

        return torchvision_adapter.build(network, network, input_shape, n_classes)

    def source(self, network: str, tag: str) -> Source:
        return source_among(network, tag or "torchvision:IMAGENET1K_V1", network, ("torchvision", "timm"))


class Torchvision(PretrainedFamily):
    """Every classification network of torchvision, adapted to the task's channels, classes and image size."""

    forms = "torchvision:NAME, NAME as in torchvision.models.list_models(torchvision.models), e.g. torchvision:resnet18"
    preload = ("torchvision",)

    def check(self, network: str) -> None:
        from tasks.networks.torchvision_names import torchvision_names

        check_library(network, "torchvision", torchvision_names(), self.forms, "torchvision:resnet18")

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        self.check(network)
        from tasks.networks import torchvision_adapter

        return torchvision_adapter.build(network, network.removeprefix("torchvision:"), input_shape, n_classes)

    def source(self, network: str, tag: str) -> Source:
        """As it says in `pretrained`; `true` asks torchvision for its default, which imports it."""
        name = network.removeprefix("torchvision:")
        if not tag:
            from tasks.networks.published import default_tag

            tag = f"torchvision:{default_tag('torchvision', name)}"
        return source_among(network, tag, name, ("torchvision",))


class Timm(PretrainedFamily):
    """Every architecture of timm, adapted to the task's channels, classes and image size."""

    forms = "timm:NAME, NAME as in timm.list_models() without a pretrained tag, e.g. timm:resnet18"
    preload = ("timm",)

    def check(self, network: str) -> None:
        from tasks.networks.timm_names import timm_names

        check_library(network, "timm", timm_names(), self.forms, "timm:resnet18")

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        self.check(network)
        from tasks.networks import timm_adapter

        return timm_adapter.build(network, network.removeprefix("timm:"), input_shape, n_classes)

    def source(self, network: str, tag: str) -> Source:
        """As it says in `pretrained`; `true` asks timm for its default, which imports it."""
        name = network.removeprefix("timm:")
        if not tag:
            from tasks.networks.published import default_tag

            tag = f"timm:{default_tag('timm', name)}"
        return source_among(network, tag, name, ("timm",))
