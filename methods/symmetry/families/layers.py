"""What a module does to units: nothing, something to each by itself, or a new set of units out of all."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

ELEMENTWISE = (
    *(nn.Identity, _DropoutNd, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    *(nn.Threshold, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink),
)
"""Without parameters, on every element alike, whatever the shape."""

SPATIAL = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d),
)
"""Without parameters, on the pixels of every channel by itself."""

NAMED_ELEMENTWISE = {
    "Swish",
    "Mish",
    "HardSwish",
    "HardSigmoid",
    "HardMish",
    "QuickGELU",
    "GELU",
    "GELUTanh",
    "DropPath",
}
NAMED_SPATIAL = {"SelectAdaptivePool2d", "DropBlock2d", "AvgPool2dSame", "MaxPool2dSame"}
"""Those of timm, known by the names of their classes: this package does not need timm."""

NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
NAMED_NORMS = ("FilterResponseNorm", "FRN", "RmsNorm", "SimpleNorm", "LayerScale")


def is_elementwise(module: nn.Module) -> bool:
    """Whether the module has no parameters and treats every element alike."""
    return isinstance(module, ELEMENTWISE) or type(module).__name__ in NAMED_ELEMENTWISE


def is_spatial(module: nn.Module) -> bool:
    """Whether the module has no parameters and treats every channel of an image by itself."""
    return isinstance(module, SPATIAL) or type(module).__name__ in NAMED_SPATIAL


def passes(module: nn.Module | None) -> bool:
    """Whether units go through the module one by one, in their order, and nothing of it is to be relabelled."""
    return module is None or is_elementwise(module) or is_spatial(module)


def is_norm(module: nn.Module) -> bool:
    """Whether the module is known to commute with relabelling, if its vectors are relabelled along (see `refusal`)."""
    return isinstance(module, (*NORMS, nn.PReLU)) or type(module).__name__.startswith(NAMED_NORMS)


def refusal(module: nn.Module) -> str:
    """Why the units that this norm or convolution meets may not be relabelled; empty when they may."""
    if isinstance(module, nn.GroupNorm) and 1 < module.num_groups < module.num_channels:
        return (
            f"GroupNorm with {module.num_groups} groups on {module.num_channels} interchangeable channels: only "
            "permutations that keep the groups would be symmetries (1 group, or one per channel, is supported)"
        )
    if isinstance(module, CONVOLUTIONS) and module.groups > 1 and module.groups != module.in_channels:
        return (
            f"a grouped convolution ({module.groups} groups of {module.in_channels} channels): only depthwise ones, "
            "with a group for every channel, are supported"
        )
    return ""
