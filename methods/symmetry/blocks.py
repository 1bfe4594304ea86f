"""The tensors of two networks as matching reads them: in blocks whose axes are labelled by one group or by nobody."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.symmetry.groups import Axis, PermutationGroups

RUNNING_STATISTICS = ("running_mean", "running_var")
FLOAT64_ELEMENTS = 1_000_000
"""Up to so many, similarities are computed in float64 on the CPU: it costs little there."""


@dataclass(frozen=True)
class Block:
    """A part of a tensor of both networks.

    name: of the tensor. axes: group -> axis of `a` and `b`. a, b: contiguous unless they are the networks' own memory.
    The first group's units lie on axis 0 and the last group's on the last axis, so that both unfoldings are views.
    layout: which axis of the tensor's view is at each place.
    """

    name: str
    axes: Mapping[str, int]
    a: Tensor
    b: Tensor
    layout: tuple[int, ...]

    def as_viewed(self, tensor: Tensor) -> Tensor:
        """A tensor laid out as `a` and `b`, with the axes of the view. Shares its memory."""
        return tensor.permute(*_places(self.layout))

    def laid_out(self, tensor: Tensor) -> Tensor:
        """The inverse of `as_viewed`, contiguous."""
        return tensor.permute(*self.layout).contiguous()


def unfold(tensor: Tensor, axis: int) -> Tensor:
    """(n, rest): one row per entry of `axis`; a view for the first and the last axis of a contiguous tensor."""
    if axis == tensor.dim() - 1:
        return tensor.reshape(-1, tensor.shape[-1]).T
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def weight_names(names: Iterable[str]) -> list[str]:
    """Those that are not running statistics, which follow from data and other weights."""
    return [name for name in names if not name.endswith(RUNNING_STATISTICS)]


def matched_names(
    groups: PermutationGroups, a: Mapping[str, Tensor], scales: Mapping[str, float] | None = None
) -> list[str]:
    """The tensors of `a` that count in matching: those with a group, but for running statistics.

    Raises:
        ValueError: the groups do not know a tensor; `scales` lack one that counts.
    """
    unknown = [name for name in a if name not in groups.axes]
    if unknown:
        raise ValueError(f"the groups do not know the tensor '{unknown[0]}': they belong to another network")
    names = [name for name in weight_names(a) if any(map(_labelled, groups.axes[name]))]
    lacking = [name for name in names if scales is not None and name not in scales]
    if lacking:
        raise ValueError(f"scales lack {len(lacking)} tensors that are matched, the first is '{lacking[0]}'")
    return names


def blocks_of(
    groups: PermutationGroups,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    scales: Mapping[str, float] | None = None,
) -> list[Block]:
    """The blocks of all tensors that count. a, b: name -> tensor on one device. scales: name -> s, which weighs a
    tensor by 1/s^2 (in the block's `a`). Key biases without effect are zero in `a`.

    Raises:
        ValueError: names or shapes differ; a group lies on two axes of one tensor.
    """
    names = matched_names(groups, a, scales)
    for name in names:
        if name not in b or b[name].shape != a[name].shape:
            other = tuple(b[name].shape) if name in b else "missing"
            raise ValueError(f"'{name}' is {tuple(a[name].shape)} in one network and {other} in the other")
    dtype = computing_dtype(a, names)
    silent = {attention.qkv_bias for attention in groups.attentions if attention.key_bias}
    found: list[Block] = []
    for name in names:
        first = groups.viewed(name, a[name].detach()).to(dtype)
        if scales is not None:
            first = first / scales[name] ** 2
        if name in silent:
            first = first.clone()
            first[1] = 0
        found += _split(groups, name, first, groups.viewed(name, b[name].detach()).to(dtype))
    return found


def computing_dtype(weights: Mapping[str, Tensor], names: Collection[str]) -> torch.dtype:
    """float64 on the CPU for small networks and for float64 weights, else float32."""
    tensors = [weights[name] for name in names]
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return torch.float32
    small = sum(tensor.numel() for tensor in tensors) <= FLOAT64_ELEMENTS
    return torch.float64 if small or any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _split(groups: PermutationGroups, name: str, a: Tensor, b: Tensor) -> Iterator[Block]:
    """One block for every combination of parts of the axes, where an axis of several groups has several parts."""
    parts = [list(_parts(groups, axis, size)) for axis, size in zip(groups.axes[name], a.shape, strict=True)]
    for chosen in itertools.product(*parts):
        own = [(position, group) for position, (group, _, _) in enumerate(chosen) if group is not None]
        if not own:
            continue
        if len({group for _, group in own}) < len(own):
            raise ValueError(f"'{name}' has one group on two axes ({groups.axes[name]}): matching cannot handle it")
        rest = [position for position, (group, _, _) in enumerate(chosen) if group is None]
        order = [position for position, _ in own]
        layout = (order[0], *rest) if len(order) == 1 else (order[0], *order[1:-1], *rest, order[-1])
        first, second = a, b
        for position, (_, start, size) in enumerate(chosen):
            first, second = first.narrow(position, start, size), second.narrow(position, start, size)
        places = _places(layout)
        yield Block(
            name,
            {group: places[position] for position, group in own},
            first.permute(*layout).contiguous(),
            second.permute(*layout).contiguous(),
            layout,
        )


def _parts(groups: PermutationGroups, axis: Axis, size: int) -> Iterator[tuple[str | None, int, int]]:
    """(group or None, start, size) of every run of entries of an axis."""
    if axis is None:
        yield None, 0, size
        return
    start = 0
    for part in (axis,) if isinstance(axis, str) else axis:
        length = part if isinstance(part, int) else groups.sizes[part]
        yield (None if isinstance(part, int) else part), start, length
        start += length
    if start != size:
        raise ValueError(f"an axis of {size} entries is labelled as {axis}, which are {start}")


def _labelled(axis: Axis) -> bool:
    return isinstance(axis, str) or any(isinstance(part, str) for part in axis or ())


def _places(layout: tuple[int, ...]) -> list[int]:
    return sorted(range(len(layout)), key=layout.__getitem__)
