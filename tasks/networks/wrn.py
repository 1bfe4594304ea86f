"""Wide residual networks with pre-activation blocks: WRN-depth-width.

Zagoruyko, Komodakis: Wide residual networks, BMVC 2016. Three stages of (depth - 4) / 6 blocks with 16k, 32k and 64k
channels, block B(3, 3), no dropout. Strides halve with rounding up, so every image size from 1x1 works.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu

from tasks.networks.resnet import conv3x3, he_initialise


class PreActivationBlock(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice: (n, width_in, H, W) to (n, width, ceil(H / stride), ceil(W / stride)).

    Where the shape changes, the shortcut is a 1x1 convolution of the *activated* input, without a norm of its own.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = conv3x3(width_in, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        changes = stride != 1 or width_in != width
        self.shortcut = nn.Conv2d(width_in, width, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        out: Tensor = self.conv2(relu(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


def stage(n_blocks: int, width_in: int, width: int, stride: int) -> nn.Sequential:
    """`n_blocks` blocks; the first changes width and resolution."""
    first = PreActivationBlock(width_in, width, stride)
    return nn.Sequential(first, *(PreActivationBlock(width, width, 1) for _ in range(n_blocks - 1)))


class WideResNet(nn.Module):
    """WRN-depth-width for inputs (n, channels, H, W); depth 6n + 4. WRN-28-10 on CIFAR-10: 36,479,194 parameters."""

    def __init__(self, depth: int, width: int, channels: int, n_classes: int) -> None:
        super().__init__()
        n_blocks = (depth - 4) // 6
        self.conv1 = conv3x3(channels, 16)
        self.layer1 = stage(n_blocks, 16, 16 * width, stride=1)
        self.layer2 = stage(n_blocks, 16 * width, 32 * width, stride=2)
        self.layer3 = stage(n_blocks, 32 * width, 64 * width, stride=2)
        self.bn = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, n_classes)
        he_initialise(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The blocks by parameter names, as timm's networks tell them, the final norm with the last; `coarse`: the
        stages."""
        stage = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^conv1", "blocks": [(stage, None), (r"^bn", (99999,))]}

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.fc(relu(self.bn(x)).mean(dim=(2, 3)))  # (n, K)
        return logits
