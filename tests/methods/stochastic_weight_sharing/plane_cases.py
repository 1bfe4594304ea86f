"""Points in the plane (x, s), their moments, and one plane of several tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.moments import Moments
from methods.stochastic_weight_sharing.sharing.plane import Plane


def moments_of(x: Tensor, s: Tensor) -> Moments:
    """Every point (m,) a group of its own."""
    x, s = x.double(), s.double()
    log_s = s.log()
    return Moments(torch.stack([torch.ones_like(x), x, x * x, log_s, log_s**2, x * log_s, s, s * s, x * s]))


def gaussian_groups(sizes: list[int], seed: int = 0, apart: float = 6.0) -> tuple[Tensor, Tensor, Tensor]:
    """(x, s, group) float64: correlated Gaussians in (x, ln s), `apart` of their deviations from each other in x."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    noise = torch.randn(2, len(group), generator=generator, dtype=torch.float64)
    x = apart * group + noise[0]
    log_s = -3 + 0.5 * (group % 2) + 0.1 * noise[0] + 0.2 * noise[1]
    return x, log_s.exp(), group


def cell_of(x: Tensor, s: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cell (m,) int64 of an even grid over (x, ln s), numbered without gaps."""
    cell = torch.zeros(len(x), dtype=torch.int64)
    for feature, count in zip((x, s.log()), grid, strict=True):
        low, high = feature.min(), feature.max()
        cell = cell * count + ((feature - low) / (high - low) * count).long().clamp(max=count - 1)
    return cell.unique(return_inverse=True)[1]


def binned(x: Tensor, s: Tensor, grid: tuple[int, int]) -> tuple[Moments, Tensor]:
    """(moments of the cells, cell of each point)."""
    cell = cell_of(x, s, grid)
    return moments_of(x, s).pooled(cell, int(cell.max()) + 1), cell


def plane_of(x: Tensor, s: Tensor, tensors: int = 3) -> Plane:
    """The points (float32) as tensors of unequal size, with scales other than 1."""
    cuts = [len(x) * (i + 1) * (i + 2) // (tensors * (tensors + 1)) for i in range(-1, tensors)]
    scale = {f"w{i}": 2.0**i for i in range(tensors)}  # powers of two: mu / r is x to the last bit
    parts = {f"w{i}": slice(cuts[i], cuts[i + 1]) for i in range(tensors)}
    mu = {name: x[part].float() * scale[name] for name, part in parts.items()}
    return Plane(mu, {name: s[part].float() * scale[name] for name, part in parts.items()}, scale)
