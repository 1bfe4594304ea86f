"""Networks of every family, small where their form allows it, and how far relabelling changes what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmark import forward
from methods.symmetry.check import moving, random_weights
from methods.symmetry.groups import PermutationGroups
from tasks.networks import deit, mlp, resnet, wrn

Shape = tuple[int, int, int]


def cnn() -> nn.Module:
    """Convolutions with and without norms, one depthwise with a multiplier, two linear layers behind 4x4 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 12, 3, padding=1, groups=6), nn.GroupNorm(1, 12), nn.PReLU(12)),
        nn.Sequential(nn.Conv2d(12, 5, 3, padding=1), nn.LayerNorm((5, 4, 4)), nn.Tanh(), nn.Dropout2d(0.1)),
        *(nn.Flatten(), nn.BatchNorm1d(80), nn.Linear(80, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 4)),
    )


class Vgg(nn.Module):
    """The parts and the forward pass of torchvision's VGG."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


class Gated(nn.Module):
    """No family's: hidden units behind a gate, whose groups the network declares itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.value, self.gate = nn.Linear(4 * 36, 6), nn.Linear(4 * 36, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(1).tanh()
        logits: Tensor = self.out(self.value(x) * self.gate(x).sigmoid())
        return logits

    def permutation_groups(self) -> Mapping[str, object]:
        into = {"view": (6, 4, 36), "axes": ("hidden", "channel", None)}
        return {
            "conv.weight": ("channel", None, None, None),
            "conv.bias": ("channel",),
            **dict.fromkeys(("value.weight", "gate.weight"), into),
            **dict.fromkeys(("value.bias", "gate.bias"), ("hidden",)),
            "out.weight": (None, "hidden"),
            "out.bias": (None,),
        }

    def permutation_taps(self) -> Mapping[str, tuple[str, str]]:
        return {"channel": ("conv", "output"), "hidden": ("out", "input")}


def vit(**settings: object) -> nn.Module:
    """A transformer for 8x8 images, two blocks deep."""
    return VisionTransformer(
        **{"img_size": 8, "patch_size": 4, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3, **settings}
    )


def small_distilled() -> nn.Module:
    return timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=16, patch_size=4, depth=2, embed_dim=24, num_heads=3, num_classes=5
    )


def small_timm_resnet(block: type[nn.Module], **settings: object) -> nn.Module:
    """A block per stage, narrow but for the stem."""
    return timm.models.resnet.ResNet(block, (1, 1, 1, 1), num_classes=4, channels=(8, 16, 24, 32), **settings)


CASES: dict[str, tuple[Callable[[], nn.Module], Shape, int]] = {
    "mlp": (lambda: mlp.build((16, 12), "tanh", (1, 8, 8), 10), (1, 8, 8), 2),
    "cnn": (cnn, (3, 8, 8), 3),
    "vgg": (Vgg, (3, 8, 8), 3),
    "resnet20": (lambda: resnet.resnet20(3, 10), (3, 8, 8), 12),
    "resnet18": (lambda: resnet.resnet18(3, 10), (3, 8, 8), 12),
    "resnet50": (lambda: resnet.resnet50(3, 10), (3, 8, 8), 37),
    "wrn-10-1": (lambda: wrn.WideResNet(10, 1, 1, 10), (1, 8, 8), 6),
    "wrn-16-4": (lambda: wrn.WideResNet(16, 4, 3, 10), (3, 8, 8), 10),
    "timm:resnet18": (lambda: timm.create_model("resnet18", num_classes=10), (3, 32, 32), 12),
    "timm:resnet50": (lambda: timm.create_model("resnet50", num_classes=10), (3, 32, 32), 37),
    "timm, narrow": (lambda: small_timm_resnet(Bottleneck, avg_down=True), (3, 32, 32), 13),
    # 2x2 pixels at the end: over a single one, the norm of a channel is its sign
    "timm, filter response norm": (
        lambda: small_timm_resnet(BasicBlock, norm_layer=timm.layers.FilterResponseNormTlu2d),
        (3, 64, 64),
        9,
    ),
    "deit-micro": (lambda: deit.build("deit-micro", (1, 8, 8), 10), (1, 8, 8), 5),
    "distilled": (small_distilled, (3, 16, 16), 5),
    "registers and layer scale": (lambda: vit(reg_tokens=2, init_values=1e-5, no_embed_class=True), (3, 8, 8), 5),
    "norms of q and k": (lambda: vit(qk_norm=True, qkv_bias=False, norm_layer="rmsnorm"), (3, 8, 8), 5),
    "norm behind the pool": (lambda: vit(global_pool="avg", pre_norm=True, class_token=False), (3, 8, 8), 5),
    "own declaration": (Gated, (1, 8, 8), 2),
}


LARGE = ("resnet18", "resnet50", "timm:resnet18", "timm:resnet50")


def change(
    network: nn.Module,
    groups: PermutationGroups,
    shape: Shape,
    dtype: torch.dtype = torch.float64,
    permutations: Mapping[str, Tensor] | None = None,
) -> float:
    """Largest difference of logits, relative to the largest, after relabelling: all groups unless given."""
    generator = torch.Generator().manual_seed(1)
    network = network.to(dtype).eval()
    weights = random_weights(network, generator)
    inputs = torch.randn(3, *shape, generator=generator).to(dtype)
    if permutations is None:
        permutations = moving(groups, generator)
    with torch.no_grad():
        before = forward(network, weights, inputs)
        after = forward(network, groups.permuted(weights, permutations), inputs)
    return ((before - after).abs().max() / before.abs().max()).item()
