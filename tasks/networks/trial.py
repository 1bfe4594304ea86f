"""Building an architecture of a library and trying it on one blank image, with an error that names sizes it takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmark import ConfigError

Shape = tuple[int, int, int]
Create = Callable[[Shape], nn.Module]

CANDIDATE_SIDES = (32, 64, 96, 128, 160, 192, 224, 256)
"""Image sides tried to tell a user which sizes an architecture takes."""


def build_tried(network: str, create: Create, input_shape: Shape, n_classes: int) -> nn.Module:
    """What `create` makes for `input_shape`, in training mode, after one forward pass of a blank image.

    network: its full spelling, for the error. Nothing in it overwrites activations.

    Raises:
        ConfigError: the architecture takes no such image; the text names sizes that it takes.
    """
    try:
        built = create(input_shape)
        _try_forward(built, input_shape, n_classes)
    except Exception as error:  # libraries raise many types, assertion failures among them
        raise ConfigError(_refusal(network, create, input_shape, n_classes, error)) from error
    for module in built.modules():
        if getattr(module, "inplace", False) is True:
            # Overwriting activations is an error where autograd or vmap still needs the input.
            module.inplace = False  # type: ignore[assignment]
    return built


def _try_forward(network: nn.Module, input_shape: Shape, n_classes: int) -> None:
    """In evaluation mode, so that neither running statistics nor torch's generator change."""
    network.eval()
    with torch.no_grad():
        shape = tuple(network(torch.zeros(1, *input_shape)).shape)
    network.train()
    if shape != (1, n_classes):
        raise ValueError(f"the output for one image has shape {shape}, expected {(1, n_classes)}")


def _refusal(network: str, create: Create, input_shape: Shape, n_classes: int, error: Exception) -> str:
    channels, height, width = input_shape
    possible = [side for side in CANDIDATE_SIDES if _takes(create, (channels, side, side), n_classes)]
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    if possible:
        advice = f"Possible sizes, of those tried: {', '.join(f'{side}x{side}' for side in possible)}."
    else:
        advice = f"It takes none of the sizes tried ({', '.join(map(str, CANDIDATE_SIDES))})."
    return f"network '{network}' cannot take {channels}x{height}x{width} images: {cause}\n  {advice}"


def _takes(create: Create, input_shape: Shape, n_classes: int) -> bool:
    try:
        _try_forward(create(input_shape), input_shape, n_classes)
    except Exception:  # whatever it is, the answer is no
        return False
    return True
