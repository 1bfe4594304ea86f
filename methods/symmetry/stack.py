"""Weights of many networks of one architecture, as tensors with an axis of samples in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from methods.symmetry.groups import PermutationGroups
from methods.symmetry.matched import Match, apply

Samples = Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor]
"""Weights of K networks: a sequence of mappings, or one mapping name -> (K, ...)."""


def stacked(samples: Samples) -> dict[str, Tensor]:
    """Name -> (K, ...): of a mapping its own tensors, of a sequence new ones.

    Raises:
        ValueError: fewer than two samples, or samples of different names or shapes.
    """
    if isinstance(samples, Mapping):
        stack = {name: tensor.detach() for name, tensor in samples.items()}
    else:
        names = set(samples[0]) if samples else set()
        if any(set(sample) != names for sample in samples):
            raise ValueError("samples to be aligned must have the same names of tensors")
        stack = {name: torch.stack([sample[name].detach() for sample in samples]) for name in (samples or [{}])[0]}
    counts = {len(tensor) for tensor in stack.values()} or {0}
    if len(counts) > 1 or min(counts) < 2:
        raise ValueError(f"samples to be aligned must be 2 or more, of all tensors as many; got {sorted(counts)}")
    return stack


def applied(groups: PermutationGroups, stack: Mapping[str, Tensor], matches: Sequence[Match]) -> dict[str, Tensor]:
    """Every sample relabelled by its match: new tensors name -> (K, ...)."""
    out = {name: torch.empty_like(tensor) for name, tensor in stack.items()}
    for index, match in enumerate(matches):
        for name, tensor in apply(groups, match, sample_of(stack, index)).items():
            out[name][index] = tensor
    return out


def sample_of(stack: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """One sample; views."""
    return {name: tensor[index] for name, tensor in stack.items()}


def mean_of(stack: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean over samples, summed in float64, in the tensors' dtype."""
    return {name: tensor.mean(0, dtype=torch.float64).to(tensor.dtype) for name, tensor in stack.items()}
