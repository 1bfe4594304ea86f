"""Permutation groups as data: which axis of which tensor is labelled by which group of units, and relabelling by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Axis: TypeAlias = "str | tuple[str | int, ...] | None"
"""Who labels the entries of one axis: a group; None, nobody (classes, pixels, kernel positions); or several groups laid
end to end, where a number is a run of entries that nobody labels. The last is what zero-padded shortcuts need: the
wider stream begins with the channels of the narrower one."""

Permutations: TypeAlias = "Mapping[str, Tensor]"
"""Group -> (n,) int64: `perm[i]` is the unit that is placed in slot i."""


@dataclass(frozen=True)
class Tap:
    """Where the activations of a group's units can be read: an axis of what a module is given or gives.

    module: its path in the network. axis: of the tensor, with the examples as axis 0. start: the first of the group's
    entries on that axis.
    """

    module: str
    side: Literal["input", "output"]
    axis: int = 1
    start: int = 0


@dataclass(frozen=True)
class Attention:
    """A self-attention whose heads are a group, and whose heads have symmetries inside.

    module: path of the attention; `qkv` (3 * heads * width, D) and `proj` (D, heads * width) are below it. group: that
    of the heads. rotates_qk: whether a common rotation of q and k leaves the function as it is (no norm of q and k, no
    rotary embedding). key_bias: whether a bias of the keys exists and is without effect.
    """

    module: str
    group: str
    heads: int
    width: int
    rotates_qk: bool = True
    key_bias: bool = True

    @property
    def qkv(self) -> str:
        """Name of the weight of queries, keys and values."""
        return f"{self.module}.qkv.weight"

    @property
    def qkv_bias(self) -> str:
        """Name of their bias, which need not exist."""
        return f"{self.module}.qkv.bias"

    @property
    def proj(self) -> str:
        """Name of the weight behind the heads."""
        return f"{self.module}.proj.weight"


@dataclass(frozen=True)
class PermutationGroups:
    """The groups of interchangeable units of one architecture.

    sizes: group -> number of units, in the order of the network. axes: name of every parameter and floating-point
    buffer -> one `Axis` per axis of the tensor (of its view, if it has one). views: name -> shape in which the axes are
    read, for tensors whose own axes mix units with something else. taps: group -> where its activations are read; may
    lack groups (activation matching is then refused). attentions: those whose heads are groups.

    A permutation of every group changes weights to others of the same function: `permuted`.
    """

    sizes: Mapping[str, int]
    axes: Mapping[str, tuple[Axis, ...]]
    views: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    taps: Mapping[str, Tap] = field(default_factory=dict)
    attentions: tuple[Attention, ...] = ()

    def identity(self) -> dict[str, Tensor]:
        """Every unit where it is."""
        return {group: torch.arange(size) for group, size in self.sizes.items()}

    def random(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Independent uniform permutations; `generator` is on the CPU."""
        return {group: torch.randperm(size, generator=generator) for group, size in self.sizes.items()}

    def permuted(
        self, weights: Mapping[str, Tensor], permutations: Permutations, leading: int = 0
    ) -> dict[str, Tensor]:
        """The relabelled weights: new tensors, or the very same ones where nothing moves.

        weights: any of the network's parameters and buffers. permutations: may lack groups, whose units stay.
        leading: number of axes in front of a tensor's own ones (samples), which are permuted alike.

        Raises:
            KeyError: a name that the groups do not know.
        """
        return {
            name: self.permuted_tensor(name, tensor, permutations, leading=leading) for name, tensor in weights.items()
        }

    def permuted_tensor(self, name: str, tensor: Tensor, permutations: Permutations, *, leading: int = 0) -> Tensor:
        """One relabelled tensor; arguments as of `permuted`."""
        viewed, moved = self.viewed(name, tensor, leading), False
        for position, axis in enumerate(self.axes[name]):
            index = self.index(axis, permutations)
            if index is not None:
                viewed, moved = viewed.index_select(leading + position, index.to(tensor.device)), True
        return viewed.reshape(tensor.shape) if moved else tensor

    def viewed(self, name: str, tensor: Tensor, leading: int = 0) -> Tensor:
        """The tensor in the shape in which its axes are read."""
        view = self.views.get(name)
        return tensor if view is None else tensor.reshape(*tensor.shape[:leading], *view)

    def index(self, axis: Axis, permutations: Permutations) -> Tensor | None:
        """Which old entry of an axis comes to each place, int64; None when all stay."""
        parts, moved, start = [], False, 0
        for part in (axis,) if isinstance(axis, str) else axis or ():
            size = part if isinstance(part, int) else self.sizes[part]
            own = None if isinstance(part, int) else permutations.get(part)
            moved = moved or own is not None
            parts.append((torch.arange(size) if own is None else own.cpu()) + start)
            start += size
        return torch.cat(parts) if moved else None

    def places(self, group: str) -> dict[str, tuple[tuple[int, int], ...]]:
        """Tensor name -> (axis, first entry) of every axis, of its view, on which the group's units lie."""
        found: dict[str, tuple[tuple[int, int], ...]] = {}
        for name, axes in self.axes.items():
            own = tuple((position, start) for position, axis in enumerate(axes) for start in self._starts(axis, group))
            if own:
                found[name] = own
        return found

    def _starts(self, axis: Axis, group: str) -> Iterator[int]:
        start = 0
        for part in (axis,) if isinstance(axis, str) else axis or ():
            if part == group:
                yield start
            start += part if isinstance(part, int) else self.sizes[part]


def inverse(permutations: Permutations) -> dict[str, Tensor]:
    """The permutations that undo these: `permuted(permuted(w, p), inverse(p))` is w."""
    return {group: torch.argsort(perm) for group, perm in permutations.items()}


def composed(first: Permutations, then: Permutations) -> dict[str, Tensor]:
    """One step for two: `permuted(w, composed(p, q))` is `permuted(permuted(w, p), q)`. Groups in either one."""
    both = {group: perm[then[group]] if group in then else perm for group, perm in first.items()}
    return both | {group: perm for group, perm in then.items() if group not in first}
