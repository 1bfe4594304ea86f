"""Residual networks: ResNet-20 as in He et al. (2016), ResNet-18/34/50/101 for small images and for ImageNet's.

He, Zhang, Ren, Sun: Deep residual learning for image recognition, CVPR 2016 (section 4.2 for ResNet-20, table 1 for
the others). Strides halve with rounding up, so every image size from 1x1 works. Modules are named as in torchvision
(`conv1`, `bn1`, `layer1.0.conv1`, `downsample.0`, `fc`), which code that reads weights by name relies on; above 64
pixels a network computes what torchvision's of that name computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad, relu

from tasks.networks.catalogue import LARGEST_SMALL_IMAGE

Stem = Literal["cifar", "imagenet"]
"""What comes before the blocks: a 3x3 convolution; or a 7x7 convolution and a 3x3 max-pooling, each of stride 2."""


def stem_for(height: int, width: int) -> Stem:
    """The stem that suits the image size."""
    return "cifar" if max(height, width) <= LARGEST_SMALL_IMAGE else "imagenet"


def conv3x3(width_in: int, width_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with padding 1 and no bias (a batch norm follows)."""
    return nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)


def he_initialise(network: nn.Module) -> None:
    """He initialisation (fan-out, normal) of every convolution; norms and linear layers keep torch's defaults."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class PaddedShortcut(nn.Module):
    """Option A: subsample in space and append zero channels; no parameters."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.extra = width_out - width_in
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class ProjectionShortcut(nn.Sequential):
    """Option B: a strided 1x1 convolution and a batch norm."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False),
            nn.BatchNorm2d(width_out),
        )


Shortcut = Callable[[int, int, int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: (n, width_in, H, W) to (n, width, ceil(H / stride), ceil(W / stride))."""

    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = conv3x3(width_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        changes = stride != 1 or width_in != width
        self.downsample = shortcut(width_in, width, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the output has 4 * width channels. The stride sits on the 3x3 convolution."""

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        width_out = self.expansion * width
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        changes = stride != 1 or width_in != width_out
        self.downsample = shortcut(width_in, width_out, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return relu(out + self.downsample(x))


class ResNet(nn.Module):
    """A stem, stages `layer1`, `layer2`, ... of residual blocks, global average pooling and a linear classifier.

    Stage k has `blocks[k]` blocks of base width `width * 2**k`; every stage but the first halves the image.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        width: int,
        shortcut: Shortcut,
        channels: int,
        n_classes: int,
        stem: Stem = "cifar",
    ) -> None:
        super().__init__()
        self.stem = stem
        if stem == "cifar":
            self.conv1 = conv3x3(channels, width)
        else:
            self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.n_stages = len(blocks)
        width_in = width
        for stage, n_blocks in enumerate(blocks):
            stage_width = width * 2**stage
            layer = nn.Sequential()
            for index in range(n_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                layer.append(block(width_in, stage_width, stride, shortcut))
                width_in = stage_width * block.expansion
            self.add_module(f"layer{stage + 1}", layer)
        self.fc = nn.Linear(width_in, n_classes)
        he_initialise(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The blocks by parameter names, as timm's networks tell them; `coarse`: the stages."""
        return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        if self.stem == "imagenet":
            x = max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(1, self.n_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))  # (n, K)
        return logits


def resnet20(channels: int, n_classes: int) -> ResNet:
    """Three stages of three basic blocks, 16-32-64 channels, option A shortcuts: 269,722 parameters on CIFAR-10."""
    return ResNet(BasicBlock, (3, 3, 3), 16, PaddedShortcut, channels, n_classes)


def resnet18(channels: int, n_classes: int, stem: Stem = "cifar") -> ResNet:
    """Four stages of 64-512 channels, option B shortcuts: 11,173,962 parameters on CIFAR-10, 11,689,512 on ImageNet."""
    return ResNet(BasicBlock, (2, 2, 2, 2), 64, ProjectionShortcut, channels, n_classes, stem)


def resnet34(channels: int, n_classes: int, stem: Stem = "cifar") -> ResNet:
    """As `resnet18` with 3-4-6-3 blocks: 21,282,122 parameters on CIFAR-10, 21,797,672 on ImageNet."""
    return ResNet(BasicBlock, (3, 4, 6, 3), 64, ProjectionShortcut, channels, n_classes, stem)


def resnet50(channels: int, n_classes: int, stem: Stem = "cifar") -> ResNet:
    """As `resnet34` with bottleneck blocks: 23,520,842 parameters on CIFAR-10, 25,557,032 on ImageNet."""
    return ResNet(Bottleneck, (3, 4, 6, 3), 64, ProjectionShortcut, channels, n_classes, stem)


def resnet101(channels: int, n_classes: int, stem: Stem = "cifar") -> ResNet:
    """As `resnet50` with 3-4-23-3 blocks: 42,512,970 parameters on CIFAR-10, 44,549,160 on ImageNet."""
    return ResNet(Bottleneck, (3, 4, 23, 3), 64, ProjectionShortcut, channels, n_classes, stem)


BUILDERS: dict[str, Callable[..., ResNet]] = {
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
}


def build(name: str, input_shape: tuple[int, int, int], n_classes: int) -> ResNet:
    """The network `name` of `BUILDERS` for inputs (n, C, H, W), with the stem that suits them; ResNet-20 has one."""
    channels, height, width = input_shape
    builder = BUILDERS[name]
    return builder(channels, n_classes) if name == "resnet20" else builder(channels, n_classes, stem_for(height, width))
