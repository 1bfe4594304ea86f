"""The groups of a network while a family's builder finds them, tensor by tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from benchmark import weights_of
from methods.symmetry.errors import UnsupportedArchitecture
from methods.symmetry.families.layers import CONVOLUTIONS, is_norm, refusal
from methods.symmetry.groups import Attention, Axis, PermutationGroups, Tap


@dataclass(frozen=True)
class Units:
    """What flows from layer to layer: who labels it, how many units, and how many consecutive entries each has.

    entries is more than 1 behind a depthwise convolution with a multiplier, and None behind `Flatten`, where the next
    layer's width tells it: entry `unit * entries + i`. A width of None: not known, as that of the input.
    """

    axis: Axis
    width: int | None
    entries: int | None = 1

    def read(self, size: int, where: str) -> tuple[tuple[int, ...], tuple[Axis, ...]]:
        """A tensor's axis of `size` entries as a piece of a view, with its labels.

        Raises:
            UnsupportedArchitecture: as many entries cannot be these units.
        """
        if self.axis is None or self.width is None:
            return (size,), (None,)
        entries = size // self.width if self.entries is None else self.entries
        if size != self.width * entries or entries == 0:
            raise UnsupportedArchitecture(f"'{where}' has {size} entries where {self.width} units come in")
        return ((size,), (self.axis,)) if entries == 1 else ((self.width, entries), (self.axis, None))


class Draft:
    """Collects axes, views, taps and attentions; `finished` makes `PermutationGroups` of them, if nothing is missing.

    Tensors are named by module path and own name. A tied tensor is kept under its first name.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.tensors = weights_of(network)
        self.sizes: dict[str, int] = {}
        self.axes: dict[str, tuple[Axis, ...]] = {}
        self.views: dict[str, tuple[int, ...]] = {}
        self.taps: dict[str, Tap] = {}
        self.attentions: list[Attention] = []
        first = {id(tensor): name for name, tensor in reversed([*network.named_parameters()])}
        tied = network.named_parameters(remove_duplicate=False)
        self._first_name = {name: first[id(tensor)] for name, tensor in tied}

    def group(self, name: str, size: int) -> str:
        """A new group of units."""
        if name in self.sizes:
            raise UnsupportedArchitecture(f"module '{name}' is used twice")
        self.sizes[name] = size
        return name

    def tap(self, group: Axis, module: str, side: Literal["input", "output"], axis: int = 1, start: int = 0) -> None:
        """Say where a group is read; nothing for axes that are no single group, and for groups that were removed."""
        if isinstance(group, str):
            self.taps[group] = Tap(module, side, axis, start)

    def put(self, name: str, axes: tuple[Axis, ...], view: tuple[int, ...] | None = None) -> None:
        """Label the axes of a tensor, or of its view.

        Raises:
            UnsupportedArchitecture: it is tied to a tensor whose axes are labelled otherwise, or is no parameter.
        """
        own = self._first_name.get(name, name)
        if own not in self.tensors:
            raise UnsupportedArchitecture(f"'{name}' is no parameter but made of others (a parametrisation)")
        view = None if view is None or view == tuple(self.tensors[own].shape) else view
        if own in self.axes and (self.axes[own], self.views.get(own)) != (axes, view):
            raise UnsupportedArchitecture(
                f"'{name}' is used, or tied to '{own}', in two places that join different units, so that one group "
                "would be on two axes of a tensor"
            )
        self.axes[own] = axes
        if view is not None:
            self.views[own] = view

    def dense(self, path: str, module: nn.Module, into: Units, out: Axis) -> Units:
        """A linear layer or convolution that makes the units `out` of all that come in; None: classes.

        Raises:
            UnsupportedArchitecture: it is a grouped convolution, or its input is not `into`.
        """
        if not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            raise UnsupportedArchitecture(f"'{path}' is a {type(module).__name__}, not a linear layer or convolution")
        if isinstance(module, CONVOLUTIONS) and module.groups > 1:
            raise UnsupportedArchitecture(f"'{path}' is {refusal(module) or 'a depthwise convolution at this place'}")
        shape = module.weight.shape
        width_out, width_in, *kernel = shape
        pieces, labels = into.read(width_in, f"{path}.weight")
        self.put(f"{path}.weight", (out, *labels, *[None] * len(kernel)), (width_out, *pieces, *kernel))
        if module.bias is not None:
            self.put(f"{path}.bias", (out,))
        return Units(out, width_out)

    def depthwise(self, path: str, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, into: Units) -> Units:
        """A convolution of every channel by itself, to one or more channels each, that stay with their unit."""
        if into.entries != 1:
            raise UnsupportedArchitecture(f"'{path}' splits channels that a depthwise convolution had multiplied")
        multiplier = module.out_channels // module.in_channels
        into.read(module.in_channels, f"{path}.weight")
        out = Units(into.axis, into.width, multiplier)
        self._put_first_axis(f"{path}.weight", module.weight, out)
        if module.bias is not None:
            self._put_first_axis(f"{path}.bias", module.bias, out)
        return out

    def _put_first_axis(self, name: str, tensor: Tensor, units: Units) -> None:
        size, *rest = tensor.shape
        pieces, labels = units.read(size, name)
        self.put(name, (*labels, *[None] * len(rest)), (*pieces, *rest))

    def norm(self, path: str, module: nn.Module, units: Units) -> None:
        """A norm, a PReLU or a layer scale: every own tensor has its units on one axis, or is a single number.

        Raises:
            UnsupportedArchitecture: the module is none of these, or does not commute with relabelling.
        """
        if not is_norm(module):
            raise UnsupportedArchitecture(f"'{path}' is a {type(module).__name__}, not a norm that is known here")
        reason = refusal(module) if units.axis is not None else ""
        if reason:
            raise UnsupportedArchitecture(f"'{path}' is {reason}")
        tensors = [*module.named_parameters(prefix=path, recurse=False), *module.named_buffers(path, recurse=False)]
        for name, tensor in tensors:
            if tensor.is_floating_point():
                self._put_of_norm(name, tensor, units)

    def _put_of_norm(self, name: str, tensor: Tensor, units: Units) -> None:
        shape = tuple(tensor.shape)
        if units.axis is None or tensor.numel() == 1:
            self.put(name, (None,) * len(shape))
        elif len(shape) > 1 and shape[0] == 1:  # (1, C, 1, 1), as broadcast against images
            pieces, labels = units.read(shape[1], name)
            self.put(name, (None, *labels, *[None] * len(shape[2:])), (1, *pieces, *shape[2:]))
        else:  # (C,), or (C, H, W) of a layer norm
            self._put_first_axis(name, tensor, units)

    def finished(self) -> PermutationGroups:
        """The groups.

        Raises:
            UnsupportedArchitecture: a parameter or buffer was met by no rule of the family.
        """
        missing = [name for name in self.tensors if name not in self.axes]
        if missing:
            raise UnsupportedArchitecture(f"'{missing[0]}' is none of the tensors that this family has")
        for name, axes in self.axes.items():
            shape = self.views.get(name, tuple(self.tensors[name].shape))
            if math.prod(shape) != self.tensors[name].numel() or len(shape) != len(axes):
                raise UnsupportedArchitecture(f"'{name}' has shape {tuple(self.tensors[name].shape)}, not {shape}")
        ordered = {name: self.axes[name] for name in self.tensors}
        return PermutationGroups(self.sizes, ordered, self.views, self.taps, tuple(self.attentions))
