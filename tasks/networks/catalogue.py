"""The declared network families: spellings and checks. Torch and timm are imported only when a network is built.

Those whose architectures are written here; `libraries` declares the others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmark import ConfigError
from tasks.networks.libraries import Timm
from tasks.networks.pretrained import PretrainedFamily, Shape, no_published_weights, source_among
from tasks.networks.spelling import check_listed, misspelt
from tasks.networks.weight_files import Source

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CifarResNet", "Mlp", "SmallDeiT", "Timm", "WideResNet"]

LARGEST_SMALL_IMAGE = 64
"""Pixels of the longer side up to which a residual network has the 3x3 stem."""

# No leading zeros: one network has one spelling, and with it one run.
NUMBER = re.compile(r"[1-9][0-9]{0,5}")


class CifarResNet(PretrainedFamily):
    """Residual networks (He et al. 2016): with a 3x3 stem up to 64 pixels, CIFAR's size among them, from 1x1 upwards;
    in ImageNet's layout above, but for ResNet-20, which has one layout."""

    forms = "resnet18, resnet20, resnet34, resnet50, resnet101 (3x3 stem, no max-pooling up to 64 pixels; 7x7 above)"
    names = ("resnet18", "resnet20", "resnet34", "resnet50", "resnet101")

    def check(self, network: str) -> None:
        check_listed(network, self.names)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        self.check(network)
        from tasks.networks import resnet

        return resnet.build(network, input_shape, n_classes)

    def source(self, network: str, tag: str) -> Source:
        """torchvision's first weights unless told otherwise, which are the base networks of the papers."""
        if network == "resnet20":
            raise no_published_weights(network, "Those of torchvision and timm are for resnet18 and larger.")
        return source_among(network, tag or "torchvision:IMAGENET1K_V1", network, ("torchvision", "timm"))

    def check_published(self, network: str, input_shape: Shape) -> None:
        if max(input_shape[1:]) <= LARGEST_SMALL_IMAGE:
            raise ConfigError(
                f"network '{network}': the published weights are for ImageNet's layout with a 7x7 stem, and images of "
                f"{input_shape[1]}x{input_shape[2]} get the 3x3 stem. Give the path of a file that was trained on such "
                f"images, or choose 'torchvision:{network}', which has the 7x7 stem at every size."
            )


class WideResNet(PretrainedFamily):
    """Wide residual networks with pre-activation blocks, of any depth and width (Zagoruyko, Komodakis 2016)."""

    forms = "wrn-DEPTH-WIDTH, depth 6n+4 from 10, width from 1, e.g. wrn-10-1, wrn-16-4, wrn-28-10"

    def check(self, network: str) -> None:
        self._parse(network)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        depth, width = self._parse(network)
        from tasks.networks.wrn import WideResNet as Network

        return Network(depth, width, input_shape[0], n_classes)

    def source(self, network: str, tag: str) -> Source:
        raise no_published_weights(network, "Train it first, or bring a file.")

    def _parse(self, network: str) -> tuple[int, int]:
        family, *fields = network.split("-")
        if family != "wrn" or len(fields) != 2 or not all(NUMBER.fullmatch(field) for field in fields):
            numbers = [int(number) for number in re.findall(r"[0-9]+", network)]
            depth, width = (*numbers[:2], *(16, 4)[len(numbers) :])
            reason = "expected 'wrn', a depth and a width, joined by '-'"
            raise misspelt(network, reason, f"wrn-{_legal_depth(depth)}-{max(1, width)}", self.forms)
        depth, width = int(fields[0]), int(fields[1])
        if depth != _legal_depth(depth):
            reason = f"depth {depth} is not 6n+4 with n from 1"
            raise misspelt(network, reason, f"wrn-{_legal_depth(depth)}-{width}", self.forms)
        return depth, width


class SmallDeiT(PretrainedFamily):
    """Data-efficient image transformers whose patch suits the image (Touvron et al. 2021)."""

    forms = "deit-micro, deit_tiny, deit_small (patch chosen by image size)"
    names = ("deit-micro", "deit_tiny", "deit_small")
    preload = ("timm",)

    def check(self, network: str) -> None:
        check_listed(network, self.names)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        self.check(network)
        from tasks.networks import deit

        return deit.build(network, input_shape, n_classes)

    def source(self, network: str, tag: str) -> Source:
        raise no_published_weights(network, "Those of timm are for deit_tiny_patch16_224 and deit_small_patch16_224.")


class Mlp(PretrainedFamily):
    """Multilayer perceptrons on the flattened image."""

    forms = "mlp-UNITS[-UNITS...][-tanh], ReLU unless tanh, e.g. mlp-64, mlp-64-64, mlp-64-64-tanh"

    def check(self, network: str) -> None:
        self._parse(network)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        hidden, activation = self._parse(network)
        from tasks.networks import mlp

        return mlp.build(hidden, activation, input_shape, n_classes)

    def source(self, network: str, tag: str) -> Source:
        raise no_published_weights(network, "Train it first, or bring a file.")

    def _parse(self, network: str) -> tuple[list[int], str]:
        family, *fields = network.split("-")
        activation = "tanh" if fields and fields[-1] == "tanh" else "relu"
        sizes = fields[:-1] if activation == "tanh" else fields
        if family != "mlp" or not sizes or not all(NUMBER.fullmatch(size) for size in sizes):
            usable = [str(int(size)) for size in re.findall(r"[0-9]+", network) if int(size) > 0] or ["64"]
            suggestion = "-".join(["mlp", *usable, *(["tanh"] if activation == "tanh" else [])])
            reason = "expected 'mlp' and at least one number of hidden units from 1, joined by '-'"
            raise misspelt(network, reason, suggestion, self.forms)
        return [int(size) for size in sizes], activation


def _legal_depth(depth: int) -> int:
    """The legal WRN depth nearest to `depth`, the smaller of two."""
    return max(10, 6 * ((depth - 2) // 6) + 4)
