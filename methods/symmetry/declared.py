"""Groups that a network declares itself: plain data, so that the network need not know this package.

A network may have a method `permutation_groups()`. It returns a mapping with one item for every parameter and every
floating-point buffer: its name, and one entry per axis. An entry is the name of the group that labels the axis, None
for an axis that nobody may relabel (classes, pixels, inputs), or a tuple of groups and numbers laid end to end, where a
number is a run of unlabelled entries:

    def permutation_groups(self):
        return {"fc1.weight": ("h", None), "fc1.bias": ("h",), "fc2.weight": (None, "h"), "fc2.bias": (None,)}

Where one axis mixes units and something else, as behind `Flatten`, the item is a mapping with the tensor's shape for
reading it: {"view": (10, 16, 49), "axes": (None, "channels", None)}. Sizes follow from the shapes.

A second, optional method `permutation_taps()` says where the activations of groups are read, for matching by
activations: group -> (module path, "input" or "output", axis, first entry), the last two 1 and 0 unless given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from benchmark import nearest, weights_of
from methods.symmetry.groups import Axis, PermutationGroups, Tap


def declared(network: nn.Module) -> PermutationGroups | None:
    """What `permutation_groups()` of the network says; None when it has no such method. Only shapes are looked at.

    Raises:
        ValueError: a tensor is not there, or sizes contradict each other or do not follow.
    """
    method = getattr(network, "permutation_groups", None)
    if method is None:
        return None
    given = method()
    if isinstance(given, PermutationGroups):
        return given
    shapes = {name: tuple(tensor.shape) for name, tensor in weights_of(network).items()}
    axes: dict[str, tuple[Axis, ...]] = {}
    views: dict[str, tuple[int, ...]] = {}
    for name in given:
        if name not in shapes:
            raise ValueError(f"permutation_groups(): the network has no tensor '{name}'.{nearest(name, shapes)}")
    for name in (name for name in shapes if name in given):
        axes[name], shape = _item(name, given[name], shapes[name])
        if shape != shapes[name]:
            views[name] = shape
    sizes = _sizes(axes, shapes | views)
    method = getattr(network, "permutation_taps", None)
    taps: Mapping[str, Any] = {} if method is None else method()
    return PermutationGroups(sizes, axes, views, {group: Tap(*tap) for group, tap in taps.items()})


def _item(name: str, item: Any, shape: tuple[int, ...]) -> tuple[tuple[Axis, ...], tuple[int, ...]]:
    """Axes and the shape in which they are read."""
    view = tuple(item["view"]) if isinstance(item, Mapping) else shape
    entries = item["axes"] if isinstance(item, Mapping) else item
    if isinstance(entries, str) or len(entries) != len(view):
        raise ValueError(f"permutation_groups(): '{name}' has shape {view}, the entries are {entries!r}: one per axis")
    axes = tuple(tuple(entry) if isinstance(entry, list) else entry for entry in entries)
    return axes, view


def _sizes(axes: Mapping[str, tuple[Axis, ...]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes of all groups, from axes that they have alone and then from what others leave of an axis."""
    order = [part for entries in axes.values() for axis in entries for part in _parts(axis) if isinstance(part, str)]
    sizes: dict[str, int] = {}
    equations = [
        (name, _parts(axis), size)
        for name, entries in axes.items()
        for axis, size in zip(entries, shapes[name], strict=True)
        if axis is not None
    ]
    while equations:
        solvable = [item for item in equations if len({*_unknown(item[1], sizes)}) <= 1]
        if not solvable:
            raise ValueError(
                f"permutation_groups(): sizes do not follow, e.g. of {sorted(set(order) - set(sizes))[:3]}"
            )
        for equation in solvable:
            _solve(*equation, sizes)
            equations.remove(equation)
    return {group: sizes[group] for group in dict.fromkeys(order)}


def _unknown(parts: tuple[str | int, ...], sizes: Mapping[str, int]) -> list[str]:
    return [part for part in parts if isinstance(part, str) and part not in sizes]


def _solve(name: str, parts: tuple[str | int, ...], size: int, sizes: dict[str, int]) -> None:
    rest = size - sum(part if isinstance(part, int) else sizes.get(part, 0) for part in parts)
    unknown = _unknown(parts, sizes)
    if unknown and rest > 0 and rest % len(unknown) == 0:
        sizes[unknown[0]] = rest // len(unknown)
    elif unknown or rest != 0:
        known = {part: sizes[part] for part in parts if isinstance(part, str) and part in sizes}
        raise ValueError(f"permutation_groups(): an axis of '{name}' has {size} entries, not those of {parts}: {known}")


def _parts(axis: Axis) -> tuple[str | int, ...]:
    return (axis,) if isinstance(axis, str) else axis or ()
