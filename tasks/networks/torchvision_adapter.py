"""torchvision's classification architectures on a task's channels, classes and image size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision import models

from tasks.networks.trial import Shape, build_tried

WITH_HELPERS = ("googlenet", "inception_v3")
"""Networks with auxiliary classifiers, which are left out: a network has one output. Their published weights expect
inputs that they normalise anew from ImageNet's statistics; they do so with colour images."""


def build(network: str, name: str, input_shape: Shape, n_classes: int) -> nn.Module:
    """The architecture `name`, initialised by torchvision, in training mode; `network` is how the study spells it.

    Transformers are made for the image size of `input_shape`. torchvision's networks take three channels: for another
    number the first convolution is made anew, with the filters that were drawn for the three, in turn.

    Raises:
        ConfigError: the architecture takes no such image; the text names sizes that it takes.
    """
    return build_tried(network, lambda shape: _create(name, shape, n_classes), input_shape, n_classes)


def _create(name: str, input_shape: Shape, n_classes: int) -> nn.Module:
    channels, height, width = input_shape
    settings: dict[str, Any] = {"weights": None, "num_classes": n_classes}
    if name.startswith("vit_"):
        if height != width:
            raise ValueError("torchvision's vision transformers take square images")
        settings["image_size"] = height
    elif name == "maxvit_t":
        settings["input_size"] = (height, width)
    elif name in WITH_HELPERS:
        settings |= {"aux_logits": False, "transform_input": channels == 3, "init_weights": True}
    device = torch.get_default_device()
    if name.startswith("regnet_"):  # computes its widths with tensors, which have no values on the meta device
        with torch.device("cpu"):
            network: nn.Module = models.get_model(name, **settings)
        network = network.to(device)
    else:
        network = models.get_model(name, **settings)
    if channels != 3:
        _adapt_first_convolution(network, channels)
    return network


def _adapt_first_convolution(network: nn.Module, channels: int) -> None:
    name, old = next((name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d))
    new = nn.utils.skip_init(
        nn.Conv2d,
        channels,
        old.out_channels,
        old.kernel_size,
        stride=old.stride,
        padding=old.padding,
        bias=old.bias is not None,
        device=old.weight.device,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight[:, [channel % 3 for channel in range(channels)]])
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, new)
