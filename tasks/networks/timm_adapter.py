"""timm's architectures on a task's channels, classes and image size, never with pretrained weights."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from benchmark import ConfigError

CANDIDATE_SIDES = (32, 64, 96, 128, 160, 192, 224, 256)
"""Image sides tried to tell a user which sizes an architecture takes."""


def build(name: str, input_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """The architecture `name`, initialised by timm, in training mode.

    Architectures tied to an image size (transformers) are made for `input_shape`; one forward pass of a blank image
    shows that the whole network takes it.

    Raises:
        ConfigError: the architecture takes no such image; the text names sizes that it takes.
    """
    try:
        network = _create(name, input_shape, n_classes)
        _try_forward(network, input_shape, n_classes)
    except Exception as error:  # timm and torch raise many types, assertion failures among them
        raise ConfigError(_refusal(name, input_shape, n_classes, error)) from error
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            # Overwriting activations is an error where autograd or vmap still needs the input.
            module.inplace = False  # type: ignore[assignment]
    return network


def _create(name: str, input_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    channels, height, width = input_shape
    settings: dict[str, Any] = {"pretrained": False, "in_chans": channels, "num_classes": n_classes}
    try:
        return timm.create_model(name, **settings, img_size=(height, width))
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **settings)  # a network for every image size


def _try_forward(network: nn.Module, input_shape: tuple[int, int, int], n_classes: int) -> None:
    """In evaluation mode, so that neither running statistics nor torch's generator change."""
    network.eval()
    with torch.no_grad():
        shape = tuple(network(torch.zeros(1, *input_shape)).shape)
    network.train()
    if shape != (1, n_classes):
        raise ValueError(f"the output for one image has shape {shape}, expected {(1, n_classes)}")


def _refusal(name: str, input_shape: tuple[int, int, int], n_classes: int, error: Exception) -> str:
    channels, height, width = input_shape
    possible = [side for side in CANDIDATE_SIDES if _takes(name, (channels, side, side), n_classes)]
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    if possible:
        advice = f"Possible sizes, of those tried: {', '.join(f'{side}x{side}' for side in possible)}."
    else:
        advice = f"It takes none of the sizes tried ({', '.join(map(str, CANDIDATE_SIDES))})."
    return f"network 'timm:{name}' cannot take {channels}x{height}x{width} images: {cause}\n  {advice}"


def _takes(name: str, input_shape: tuple[int, int, int], n_classes: int) -> bool:
    try:
        _try_forward(_create(name, input_shape, n_classes), input_shape, n_classes)
    except Exception:  # whatever it is, the answer is no
        return False
    return True
