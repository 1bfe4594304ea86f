"""Layers one behind the other: multilayer perceptrons and plain convolutional networks.

Any `nn.Sequential`, nested or not, of linear layers, convolutions (depthwise too), norms, activations, poolings,
dropout and `Flatten`; and a network of `features`, `avgpool` and `classifier` in the manner of torchvision's VGG, which
flattens between the last two. The groups are named after the layers that make their units; the last one makes classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from methods.symmetry.errors import UnsupportedArchitecture
from methods.symmetry.families.draft import Draft, Units
from methods.symmetry.families.layers import CONVOLUTIONS, is_elementwise, is_norm, is_spatial
from methods.symmetry.groups import PermutationGroups

Layer = tuple[str, nn.Module]


@dataclass(frozen=True)
class Flow:
    """Units and how they lie: on the channels of an image, in a flattened image, or as features (n, width)."""

    units: Units
    layout: Literal["input", "channels", "flat", "features"]


def plain(network: nn.Module) -> PermutationGroups | None:
    """The groups of a chain of layers, one per layer but the last; None when the network is no chain.

    Raises:
        UnsupportedArchitecture: a layer is none of those above, or units are mixed with something else.
    """
    layers = chain(network)
    if layers is None:
        return None
    draft = Draft(network)
    makers = [position for position, (_, module) in enumerate(layers) if _makes_units(module)]
    if not makers:
        raise UnsupportedArchitecture("it has no linear layer and no convolution")
    flow = Flow(Units(None, None), "input")
    for position, (path, module) in enumerate(layers):
        flow = _behind(draft, path, module, flow, last=position == makers[-1])
    return draft.finished()


def chain(network: nn.Module) -> list[Layer] | None:
    """The layers in the order of the forward pass with their paths; None when the forward pass is not known."""
    if _is_sequential(network):
        return list(_leaves("", network))
    parts = dict(network.named_children())
    if list(parts) != ["features", "avgpool", "classifier"]:
        return None
    features, pool, classifier = parts.values()
    if not (_is_sequential(features) and is_spatial(pool) and _is_sequential(classifier)):
        return None
    ahead = [*_leaves("features", features), ("avgpool", pool)]
    return [*ahead, ("", nn.Flatten()), *_leaves("classifier", classifier)]


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _leaves(prefix: str, module: nn.Module) -> Iterator[Layer]:
    if not _is_sequential(module):
        yield prefix, module
        return
    for name, child in module._modules.items():  # `named_children` leaves out what comes a second time
        if child is not None:
            yield from _leaves(f"{prefix}.{name}" if prefix else name, child)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, CONVOLUTIONS) and module.groups > 1 and module.groups == module.in_channels


def _makes_units(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, *CONVOLUTIONS)) and not _is_depthwise(module)


def _behind(draft: Draft, path: str, module: nn.Module, flow: Flow, *, last: bool) -> Flow:
    """What a layer makes of the flow, its tensors labelled on the way."""
    if is_elementwise(module):
        return flow
    if isinstance(module, nn.Linear):
        return _behind_linear(draft, path, module, flow, last=last)
    if isinstance(module, CONVOLUTIONS):
        return _behind_convolution(draft, path, module, flow, last=last)
    if isinstance(module, nn.Flatten):
        return _behind_flatten(draft, path, module, flow)
    if is_spatial(module):
        _require_image(path, module, flow)
        _tap(draft, flow, path, "output")  # a later layer that is read at its input takes precedence
        return flow
    if is_norm(module):
        _check_layer_norm(path, module, flow)
        draft.norm(path, module, flow.units)
        return flow
    raise UnsupportedArchitecture(f"'{path}' is a {type(module).__name__}, which is no layer of a plain network")


def _behind_linear(draft: Draft, path: str, module: nn.Linear, flow: Flow, *, last: bool) -> Flow:
    if flow.layout == "channels":
        raise UnsupportedArchitecture(f"the linear layer '{path}' follows a convolution without `Flatten`")
    _tap(draft, flow, path, "input")
    group = None if last else draft.group(path, module.out_features)
    return Flow(draft.dense(path, module, flow.units, group), "features")


def _behind_convolution(
    draft: Draft, path: str, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, flow: Flow, *, last: bool
) -> Flow:
    _require_image(path, module, flow)
    _tap(draft, flow, path, "input")
    if _is_depthwise(module):
        return Flow(draft.depthwise(path, module, flow.units), "channels")
    group = None if last else draft.group(path, module.out_channels)
    return Flow(draft.dense(path, module, flow.units, group), "channels")


def _behind_flatten(draft: Draft, path: str, module: nn.Flatten, flow: Flow) -> Flow:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise UnsupportedArchitecture(
            f"'{path}' flattens dimensions {module.start_dim} to {module.end_dim}, not 1 to -1"
        )
    if flow.layout != "channels":
        return flow
    if path:  # else it is no module but part of a forward pass
        _tap(draft, flow, path, "input")
    return Flow(Units(flow.units.axis, flow.units.width, None), "flat")


def _tap(draft: Draft, flow: Flow, path: str, side: Literal["input", "output"]) -> None:
    """Read the units here, if they lie on an axis of their own and no layer did so at its input before."""
    group = flow.units.axis
    if isinstance(group, str) and flow.units.entries == 1:
        known = draft.taps.get(group)
        if known is None or known.side == "output":
            draft.tap(group, path, side)


def _require_image(path: str, module: nn.Module, flow: Flow) -> None:
    if flow.layout in ("flat", "features"):
        raise UnsupportedArchitecture(f"'{path}' is a {type(module).__name__} behind flattened images or features")


def _check_layer_norm(path: str, module: nn.Module, flow: Flow) -> None:
    """On images, a layer norm has the channels as the first of three axes; over fewer, its weights are of pixels."""
    whole = isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 3
    last_axes = isinstance(module, nn.LayerNorm | nn.RMSNorm) or type(module).__name__ in ("RmsNorm", "SimpleNorm")
    if last_axes and flow.layout == "channels" and not whole and flow.units.axis is not None:
        raise UnsupportedArchitecture(
            f"'{path}' is a {type(module).__name__} over the last axes of images; over (C, H, W) it is supported"
        )
