"""From a network to its permutation groups: declared by the network itself, or of a family that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from methods.symmetry.check import require_complete
from methods.symmetry.declared import declared
from methods.symmetry.errors import UnsupportedArchitecture
from methods.symmetry.families.plain import plain
from methods.symmetry.families.residual import residual
from methods.symmetry.families.transformer import transformer
from methods.symmetry.groups import Axis, PermutationGroups


@dataclass(frozen=True)
class Family:
    """Networks whose groups a builder finds from modules and names.

    what: in a few words, for error messages. build: the groups; None when the network is none of the family's. It looks
    at shapes only, never at values, and raises `UnsupportedArchitecture` with the reason where a network of the family
    has a part that it does not know.
    """

    name: str
    what: str
    build: Callable[[nn.Module], PermutationGroups | None]


FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Make one more family known; it is asked before those that were known. Again under a name: replaced."""
    FAMILIES[family.name] = family


register_family(Family("transformer", "timm's VisionTransformer and DeiT, distilled too", transformer))
register_family(Family("residual", "ResNet and wide ResNet with torchvision's names conv1, layer1, ..., fc", residual))
register_family(Family("plain", "nn.Sequential of linear layers, convolutions, norms, activations, Flatten", plain))


def groups_of(network: nn.Module) -> PermutationGroups:
    """The groups of interchangeable units of a network, of which only shapes are read (a meta device will do).

    Its own method `permutation_groups()` has precedence (see `methods.symmetry.declared`), then families in the order
    of `register_family`, the newest first. Units that a frozen parameter has (`requires_grad` False) cannot be
    relabelled: their groups are left out. `check_groups` tells whether the groups are right.

    Raises:
        UnsupportedArchitecture: the network is of no family, or has a part that its family does not know.
        ValueError: the groups that the network declares do not fit it.
    """
    groups = declared(network) or _by_family(network)
    require_complete(network, groups)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return without(groups, {group for group in groups.sizes if frozen & groups.places(group).keys()})


def _by_family(network: nn.Module) -> PermutationGroups:
    try:
        for family in reversed(FAMILIES.values()):
            groups = family.build(network)
            if groups is not None:
                return groups
        children = ", ".join(name for name, _ in network.named_children()) or "(none)"
        raise UnsupportedArchitecture(f"no family has a network of these modules: {children}")
    except UnsupportedArchitecture as error:
        known = "\n".join(f"    {family.name}: {family.what}" for family in FAMILIES.values())
        raise UnsupportedArchitecture(
            f"the permutation groups of {type(network).__name__} are not known: {error}.\n"
            f"  known families:\n{known}\n"
            "  Give the network a method `permutation_groups()` that returns, for every parameter and floating-point "
            "buffer, one entry per axis: a group's name or None (see methods/symmetry/declared.py)."
        ) from error


def without(groups: PermutationGroups, removed: set[str]) -> PermutationGroups:
    """The same groups but some, whose units nobody relabels any more. Heads that are removed lose their attention."""
    if not removed:
        return groups
    return replace(
        groups,
        sizes={group: size for group, size in groups.sizes.items() if group not in removed},
        axes={name: tuple(_without(a, removed, groups.sizes) for a in axes) for name, axes in groups.axes.items()},
        taps={group: tap for group, tap in groups.taps.items() if group not in removed},
        attentions=tuple(attention for attention in groups.attentions if attention.group not in removed),
    )


def _without(axis: Axis, removed: set[str], sizes: Mapping[str, int]) -> Axis:
    if axis is None or isinstance(axis, str):
        return None if axis in removed else axis
    parts = tuple(sizes[part] if isinstance(part, str) and part in removed else part for part in axis)
    return parts if any(isinstance(part, str) for part in parts) else None
