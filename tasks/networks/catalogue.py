"""The declared network families: spellings and checks. Torch and timm are imported only when a network is built."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmark import ConfigError, NetworkFamily, nearest, unknown

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]

# No leading zeros: one network has one spelling, and with it one run.
NUMBER = re.compile(r"[1-9][0-9]{0,5}")


class CifarResNet(NetworkFamily):
    """Residual networks with a 3x3 stem, for images from 1x1 upwards (He et al. 2016)."""

    forms = "resnet18, resnet20, resnet34, resnet50 (3x3 stem, no max-pooling)"
    names = ("resnet18", "resnet20", "resnet34", "resnet50")

    def check(self, network: str) -> None:
        _check_listed(network, self.names)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        self.check(network)
        from tasks.networks.resnet import BUILDERS

        return BUILDERS[network](input_shape[0], n_classes)


class WideResNet(NetworkFamily):
    """Wide residual networks with pre-activation blocks, of any depth and width (Zagoruyko, Komodakis 2016)."""

    forms = "wrn-DEPTH-WIDTH, depth 6n+4 from 10, width from 1, e.g. wrn-10-1, wrn-16-4, wrn-28-10"

    def check(self, network: str) -> None:
        self._parse(network)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        depth, width = self._parse(network)
        from tasks.networks.wrn import WideResNet as Network

        return Network(depth, width, input_shape[0], n_classes)

    def _parse(self, network: str) -> tuple[int, int]:
        family, *fields = network.split("-")
        if family != "wrn" or len(fields) != 2 or not all(NUMBER.fullmatch(field) for field in fields):
            numbers = [int(number) for number in re.findall(r"[0-9]+", network)]
            depth, width = (*numbers[:2], *(16, 4)[len(numbers) :])
            reason = "expected 'wrn', a depth and a width, joined by '-'"
            raise _misspelt(network, reason, f"wrn-{_legal_depth(depth)}-{max(1, width)}", self.forms)
        depth, width = int(fields[0]), int(fields[1])
        if depth != _legal_depth(depth):
            reason = f"depth {depth} is not 6n+4 with n from 1"
            raise _misspelt(network, reason, f"wrn-{_legal_depth(depth)}-{width}", self.forms)
        return depth, width


class SmallDeiT(NetworkFamily):
    """Data-efficient image transformers whose patch suits the image (Touvron et al. 2021)."""

    forms = "deit-micro, deit_tiny, deit_small (patch chosen by image size)"
    names = ("deit-micro", "deit_tiny", "deit_small")
    preload = ("timm",)

    def check(self, network: str) -> None:
        _check_listed(network, self.names)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        self.check(network)
        from tasks.networks import deit

        return deit.build(network, input_shape, n_classes)


class Mlp(NetworkFamily):
    """Multilayer perceptrons on the flattened image."""

    forms = "mlp-UNITS[-UNITS...][-tanh], ReLU unless tanh, e.g. mlp-64, mlp-64-64, mlp-64-64-tanh"

    def check(self, network: str) -> None:
        self._parse(network)

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        hidden, activation = self._parse(network)
        from tasks.networks import mlp

        return mlp.build(hidden, activation, input_shape, n_classes)

    def _parse(self, network: str) -> tuple[list[int], str]:
        family, *fields = network.split("-")
        activation = "tanh" if fields and fields[-1] == "tanh" else "relu"
        sizes = fields[:-1] if activation == "tanh" else fields
        if family != "mlp" or not sizes or not all(NUMBER.fullmatch(size) for size in sizes):
            usable = [str(int(size)) for size in re.findall(r"[0-9]+", network) if int(size) > 0] or ["64"]
            suggestion = "-".join(["mlp", *usable, *(["tanh"] if activation == "tanh" else [])])
            reason = "expected 'mlp' and at least one number of hidden units from 1, joined by '-'"
            raise _misspelt(network, reason, suggestion, self.forms)
        return [int(size) for size in sizes], activation


class Timm(NetworkFamily):
    """Every architecture of timm, untrained, adapted to the task's channels, classes and image size."""

    forms = "timm:NAME, NAME as in timm.list_models() without a pretrained tag, e.g. timm:resnet18"
    preload = ("timm",)

    def check(self, network: str) -> None:
        from tasks.networks.timm_names import timm_names

        prefix, _, name = network.partition(":")
        if prefix != "timm" or not name:
            raise _misspelt(network, "expected 'timm:' and a name of timm", "timm:resnet18", self.forms)
        names = timm_names()
        if name in names:
            return
        architecture, _, tag = name.partition(".")
        if tag and architecture in names:
            reason = f"the tag '{tag}' names pretrained weights, and networks start untrained"
            raise _misspelt(network, reason, f"timm:{architecture}", self.forms)
        raise ConfigError(
            f"network '{network}': timm has no architecture '{name}'.{nearest(name, names)}\n"
            f"  legal: {self.forms} ({len(names)} names)"
        )

    def build(self, network: str, input_shape: Shape, n_classes: int) -> nn.Module:
        self.check(network)
        from tasks.networks import timm_adapter

        return timm_adapter.build(network.removeprefix("timm:"), input_shape, n_classes)


def _check_listed(network: str, names: tuple[str, ...]) -> None:
    if network not in names:
        raise ConfigError(unknown("network", network, names))


def _legal_depth(depth: int) -> int:
    """The legal WRN depth nearest to `depth`, the smaller of two."""
    return max(10, 6 * ((depth - 2) // 6) + 4)


def _misspelt(network: str, reason: str, suggestion: str, forms: str) -> ConfigError:
    return ConfigError(f"network '{network}': {reason}. Did you mean '{suggestion}'?\n  legal: {forms}")
