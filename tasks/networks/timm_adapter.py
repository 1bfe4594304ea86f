"""timm's architectures on a task's channels, classes and image size, initialised by timm."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from tasks.networks.trial import Shape, build_tried


def build(network: str, name: str, input_shape: Shape, n_classes: int) -> nn.Module:
    """The architecture `name`, initialised by timm, in training mode; `network` is how the study spells it.

    Architectures tied to an image size (transformers) are made for `input_shape`; one forward pass of a blank image
    shows that the whole network takes it.

    Raises:
        ConfigError: the architecture takes no such image; the text names sizes that it takes.
    """
    return build_tried(network, lambda shape: _create(name, shape, n_classes), input_shape, n_classes)


def _create(name: str, input_shape: Shape, n_classes: int) -> nn.Module:
    channels, height, width = input_shape
    settings: dict[str, Any] = {"pretrained": False, "in_chans": channels, "num_classes": n_classes}
    try:
        return timm.create_model(name, **settings, img_size=(height, width))
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **settings)  # a network for every image size
