"""How files of weights name what our networks hold: prefixes of wrappers, and the layouts of well-known repositories.

A layout is a translation of names; tensors stay as they are. Those here compute the same function as our network with
the same tensors. Not here, because they do not: WRNs with biased convolutions or a shortcut of the raw input
(meliketoy, weiaicunzai), and ResNet-20s that pad channels on both sides (akamaster).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from torch import nn

from tasks.networks.resnet import PaddedShortcut, ResNet
from tasks.networks.wrn import WideResNet

PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "encoder.", "net.")
"""What DistributedDataParallel, Lightning, torch.compile and common wrappers put before every name."""

Layout = Callable[[str], str]


def translated(names: Collection[str], network: nn.Module, wanted: Collection[str]) -> dict[str, str]:
    """Name in the file -> name in the network, by the layout that explains most names; the network's own on a tie.

    wanted: the network's names. A name that no layout explains stands for itself, without its prefixes when all names
    of the file have them.
    """
    best: dict[str, str] = {}
    for layout in _layouts_of(network):
        found = {name: place for name in names if (place := _place(name, layout, wanted)) is not None}
        if len(found) > len(best):
            best = found
    return {name: best.get(name, name) for name in names}


def _place(name: str, layout: Layout, wanted: Collection[str]) -> str | None:
    return next((place for bare in _bare(name) if (place := layout(bare)) in wanted), None)


def _bare(name: str) -> Iterator[str]:
    """The name, and without one, two, ... prefixes."""
    yield name
    for prefix in PREFIXES:
        if name.startswith(prefix):
            yield from _bare(name.removeprefix(prefix))


def _layouts_of(network: nn.Module) -> tuple[Layout, ...]:
    if isinstance(network, WideResNet):
        return _own, _wrn_blocks
    if isinstance(network, ResNet) and not any(isinstance(each, PaddedShortcut) for each in network.modules()):
        deep = any(name.endswith("conv3.weight") for name, _ in network.named_parameters())
        return _own, _cifar_resnet, _residual_functions(3 if deep else 2)
    return (_own,)


def _own(name: str) -> str:
    return name


def _cifar_resnet(name: str) -> str:
    """kuangliu's pytorch-cifar and its many descendants: `layer1.0.shortcut.0.weight`, `linear.weight`."""
    return re.sub(r"^linear\.", "fc.", name.replace(".shortcut.", ".downsample."))


def _wrn_blocks(name: str) -> str:
    """xternalz' WideResNet-pytorch and its descendants: `block1.layer.0.convShortcut.weight`, the last norm `bn1`."""
    name = re.sub(r"^block(\d)\.layer\.", r"layer\1.", name.replace(".convShortcut.", ".shortcut."))
    return re.sub(r"^bn1\.", "bn.", name)


def _residual_functions(n_convolutions: int) -> Layout:
    """weiaicunzai's pytorch-cifar100: `conv2_x.0.residual_function.3.weight`, convolution, norm and ReLU in turn."""
    places = {str(3 * k): f"conv{k + 1}" for k in range(n_convolutions)}
    places |= {str(3 * k + 1): f"bn{k + 1}" for k in range(n_convolutions)}

    def layout(name: str) -> str:
        if stem := re.match(r"conv1\.([01])\.", name):
            return f"{('conv1', 'bn1')[int(stem[1])]}.{name[stem.end() :]}"
        if block := re.match(r"conv([2-5])_x\.(\d+)\.(residual_function|shortcut)\.(\d)\.", name):
            stage, index, part, place = block.groups()
            inner = f"downsample.{place}" if part == "shortcut" else places.get(place, place)
            return f"layer{int(stage) - 1}.{index}.{inner}.{name[block.end() :]}"
        return name

    return layout
