"""Whether permutation groups belong to a network: by the shapes of its tensors, and by what it computes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from benchmark import evaluating, forward, nearest, weights_of
from methods.symmetry.errors import UnsupportedArchitecture
from methods.symmetry.groups import Axis, PermutationGroups

TOLERANCE = 1e-10
"""Largest difference of logits in float64, relative to the largest logit (at least 1)."""


def require_complete(network: nn.Module, groups: PermutationGroups) -> None:
    """Check names, ranks and sizes; values are not read (a meta device will do).

    Raises:
        ValueError: a parameter or a floating-point buffer has no axes, or the axes of a tensor do not fit it.
        UnsupportedArchitecture: one group is on two axes of one tensor.
    """
    tensors = weights_of(network)
    for name in tensors:
        if name not in groups.axes:
            raise ValueError(f"the groups say nothing about '{name}'; every parameter and floating buffer is needed")
    for name in groups.axes.keys() | groups.views.keys():
        if name not in tensors:
            raise ValueError(f"the groups know a tensor '{name}' that the network has not.{nearest(name, tensors)}")
    for name, axes in groups.axes.items():
        _require_fit(name, tuple(tensors[name].shape), axes, groups)
    for group in groups.sizes:
        places = groups.places(group)
        if not places:
            raise ValueError(f"group '{group}' is on no axis of any tensor")
        for name, found in places.items():
            if len(found) > 1:
                raise UnsupportedArchitecture(
                    f"group '{group}' is on two axes of one tensor, '{name}', which no matching here can treat. "
                    "Leave the group out: None on all of its axes."
                )
    for group in groups.taps:
        if group not in groups.sizes:
            raise ValueError(f"a tap reads the group '{group}', which is none.{nearest(group, groups.sizes)}")


def _require_fit(name: str, shape: tuple[int, ...], axes: tuple[Axis, ...], groups: PermutationGroups) -> None:
    view = groups.views.get(name, shape)
    if math.prod(view) != math.prod(shape):
        raise ValueError(f"'{name}' of shape {shape} cannot be read in the shape {view}")
    if len(axes) != len(view):
        raise ValueError(f"'{name}' has {len(view)} axes {view}, the groups label {len(axes)}")
    for position, (axis, size) in enumerate(zip(axes, view, strict=True)):
        parts: tuple[str | int, ...] = (axis,) if isinstance(axis, str) else axis or ()
        strange = [part for part in parts if isinstance(part, str) and part not in groups.sizes]
        if strange:
            raise ValueError(f"axis {position} of '{name}' is of the group '{strange[0]}', which has no size")
        total = sum(part if isinstance(part, int) else groups.sizes[part] for part in parts)
        if axis is not None and total != size:
            raise ValueError(f"axis {position} of '{name}' has {size} entries, its groups {axis} have {total}")


def check_groups(
    network: nn.Module,
    groups: PermutationGroups,
    input_shape: tuple[int, ...],
    generator: torch.Generator | None = None,
) -> float:
    """Show that relabelling all groups leaves the function as it is; the largest difference of logits, relative.

    Computed in float64 and evaluation mode, on two random inputs of `input_shape` (C, H, W), by a copy of the network
    with random parameters and running statistics: what training starts from (norms of 1, biases of 0) would hide a
    vector that is not relabelled. The network itself is left as it is. generator: on the CPU; None: always the same.

    Raises:
        ValueError: a tensor is missing or does not fit (see `require_complete`), the network is on the meta device, or
            logits differ. The latter means that the groups declared are wrong, or that the network computes something
            else than its modules suggest.
    """
    require_complete(network, groups)
    if any(tensor.is_meta for tensor in weights_of(network).values()):
        raise ValueError("the network is on the meta device; make it on a real one before its groups are checked")
    generator = generator or torch.Generator().manual_seed(0)
    twin = copy.deepcopy(network).double()
    weights = random_weights(twin, generator)
    device = next(iter(weights.values())).device
    inputs = torch.randn(2, *input_shape, generator=generator, dtype=torch.float64).to(device)
    moves = moving(groups, generator)
    deviation = _deviation(twin, groups, weights, moves, inputs)
    if not deviation <= TOLERANCE:
        alone = {g: _deviation(twin, groups, weights, {g: perm}, inputs) for g, perm in moves.items()}
        guilty = [f"'{g}' ({change:.1e})" for g, change in alone.items() if not change <= TOLERANCE]
        raise ValueError(
            f"relabelling changes the logits by {deviation:.1e}, relative to the largest; at most {TOLERANCE:.0e} is "
            f"rounding. Alone, these groups do: {', '.join(guilty) or '(none)'}. They are wrong, or the forward pass "
            "is not what the network's modules suggest."
        )
    return deviation


def random_weights(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Values for all weights that make every one of them matter: like `weights_of`, in dtype and device too.

    Matrices and filters are N(0, 2 / fan-in), vectors that scale U(0.5, 1.5), other vectors N(0, 0.3^2), running means
    and variances likewise. Single numbers and other buffers stay.
    """
    parameters = {name for name, _ in network.named_parameters()}
    return {
        name: _random_tensor(name, tensor, generator) if name in parameters or _is_statistic(name) else tensor
        for name, tensor in weights_of(network).items()
    }


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var")


def _random_tensor(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.numel() == 1:
        return tensor.clone()
    draws = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    if tensor.ndim > 1:
        draws *= math.sqrt(2 * tensor.shape[0] / tensor.numel())
    elif name.rpartition(".")[2] in ("weight", "gamma", "running_var"):
        draws = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
    else:
        draws *= 0.3
    return draws.to(tensor)


def moving(groups: PermutationGroups, generator: torch.Generator) -> dict[str, Tensor]:
    """Random permutations, none of which leaves a group of two or more units as it is."""
    return {
        group: perm.roll(1) if torch.equal(perm, torch.arange(len(perm))) else perm
        for group, perm in groups.random(generator).items()
    }


@torch.no_grad()
def _deviation(
    network: nn.Module,
    groups: PermutationGroups,
    weights: Mapping[str, Tensor],
    moves: Mapping[str, Tensor],
    inputs: Tensor,
) -> float:
    with evaluating(network):
        before = forward(network, weights, inputs)
        after = forward(network, groups.permuted(weights, moves), inputs)
    return ((after - before).abs().max() / before.abs().max().clamp(min=1)).item()
