"""Whether named tensors fit a network: what is taken, what a classifier keeps, and a table of what does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark import ConfigError, Weights
from tasks.networks.published import IMAGENET_MEAN, IMAGENET_STD

SHOWN = 10
"""Names of each kind that a report lists."""
TOLERANCE = 1e-6
"""Between two normalisations that are the same."""


def fitted(
    network: str,
    path: Path,
    state: dict[str, Tensor],
    built: nn.Module,
    wanted: Weights,
    about: Mapping[str, str],
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of `state` that replace those of `built`, float32 on its device, and notes for the user.

    network: what a message calls it. wanted: the names and shapes of `built`. about: the metadata of the file.

    * A classifier that differs in the number of classes alone keeps its initialisation.
    * Learned positions of another grid are resampled by timm's bicubic interpolation.
    * Weights that were trained on inputs in another normalisation than ImageNet's have it folded into the layer that
      embeds patches, where that is exact.

    Raises:
        ConfigError: anything is missing, left over, or of another shape.
    """
    notes: list[str] = []
    tensors = {name: tensor.to(dtype=torch.float32) for name, tensor in state.items()}
    _resample_positions(tensors, built, wanted, notes)
    head = [name for name in _head_names(built) if name in tensors and _other_classes(tensors[name], wanted[name])]
    if head:
        shapes = (
            f"'{name}' is {_shape(tensors[name])} in {path.name} and {_shape(wanted[name])} here" for name in head
        )
        notes.append(f"the classifier keeps its initialisation: {', '.join(shapes)}")
    missing = [name for name in wanted if name not in tensors]
    left_over = [name for name in tensors if name not in wanted]
    misshapen = [
        name for name in tensors if name in wanted and name not in head and tensors[name].shape != wanted[name].shape
    ]
    if missing or left_over or misshapen:
        raise ConfigError(_report(network, path, tensors, wanted, missing, left_over, misshapen))
    _renormalise(tensors, about, notes)
    device = next(built.parameters()).device
    return {name: tensor.to(device) for name, tensor in tensors.items() if name not in head}, notes


def _head_names(network: nn.Module) -> list[str]:
    """The parameters of the classifier: what timm names so, else the last linear or convolutional layer."""
    layers = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    classifier = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
    classifiers = classifier if isinstance(classifier, tuple) else (classifier,)  # two where a network was distilled
    named = [name for name, each in layers if any(each is own for own in classifiers)] or [
        name for name, _ in layers[-1:]
    ]
    return [f"{name}.{part}" for name in named for part, _ in network.get_submodule(name).named_parameters()]


def _other_classes(found: Tensor, own: Tensor) -> bool:
    return found.dim() == own.dim() and found.shape[0] != own.shape[0] and found.shape[1:] == own.shape[1:]


def _resample_positions(tensors: dict[str, Tensor], network: nn.Module, wanted: Weights, notes: list[str]) -> None:
    """timm's vision transformers: `pos_embed` (1, prefix + rows * columns, D) of a square grid."""
    found, own = tensors.get("pos_embed"), wanted.get("pos_embed")
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if found is None or own is None or grid is None or found.shape == own.shape:
        return
    n_prefix = own.shape[1] - grid[0] * grid[1] if own.dim() == 3 else -1
    side = round(max(found.shape[1] - n_prefix, 0) ** 0.5) if found.dim() == 3 else 0
    if n_prefix < 0 or side * side + n_prefix != found.shape[1] or found.shape[2] != own.shape[2]:
        return  # nothing that interpolation mends: the report shows it
    from timm.layers.pos_embed import resample_abs_pos_embed

    tensors["pos_embed"] = resample_abs_pos_embed(found, list(grid), num_prefix_tokens=n_prefix)
    notes.append(f"positions are resampled from a grid of {side}x{side} patches to {grid[0]}x{grid[1]}")


def _renormalise(tensors: dict[str, Tensor], about: Mapping[str, str], notes: list[str]) -> None:
    """With x the image, the file's network was trained on (x - m') / s', and is given (x - m) / s. A convolution of
    patches without padding and with a bias takes the affine map between them exactly: W' = W s / s',
    b' = b + sum_c W_c (m - m') / s'."""
    mean, std = json.loads(about.get("mean", "[]")), json.loads(about.get("std", "[]"))
    if len(mean) != 3 or len(std) != 3:
        return
    given_mean, given_std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    own_mean, own_std = torch.tensor(mean), torch.tensor(std)
    if torch.allclose(own_mean, given_mean, atol=TOLERANCE) and torch.allclose(own_std, given_std, atol=TOLERANCE):
        return
    was = f"trained on inputs of mean {mean} and deviation {std}, while inputs here are in ImageNet's normalisation"
    weight, bias = tensors.get("patch_embed.proj.weight"), tensors.get("patch_embed.proj.bias")
    if weight is None or bias is None or weight.dim() != 4 or weight.shape[1] != 3:
        notes.append(f"the weights were {was}; nothing corrects for it")
        return
    shift = ((given_mean - own_mean) / own_std).view(1, 3, 1, 1)
    tensors["patch_embed.proj.bias"] = bias + (weight * shift).sum(dim=(1, 2, 3))
    tensors["patch_embed.proj.weight"] = weight * (given_std / own_std).view(1, 3, 1, 1)
    notes.append(f"the weights were {was}: the layer that embeds patches takes the difference")


def _report(
    network: str,
    path: Path,
    tensors: Weights,
    wanted: Weights,
    missing: list[str],
    left_over: list[str],
    misshapen: list[str],
) -> str:
    kinds = {"of another shape": misshapen, "missing in the file": missing, "left over in the file": left_over}
    lines = [f"{network}: the weights in {path} do not fit."]
    width = max(len(name) for names in kinds.values() for name in names[:SHOWN])
    lines.append(f"  {'name':<{width}}  {'in the file':<20}  in the network")
    for kind, names in kinds.items():
        lines += [f"  {len(names)} {kind}:"] if names else []
        for name in names[:SHOWN]:
            there = _shape(tensors[name]) if name in tensors else "-"
            lines.append(f"  {name:<{width}}  {there:<20}  {_shape(wanted[name]) if name in wanted else '-'}")
        lines += [f"  ... {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    lines.append(
        "  Choose the network that the file was written for (width, depth, stem for small or large images, patch),\n"
        "  or another file. Names may be those of torchvision, timm, kuangliu's, weiaicunzai's or xternalz'\n"
        "  repositories, behind common prefixes."
    )
    return "\n".join(lines)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
