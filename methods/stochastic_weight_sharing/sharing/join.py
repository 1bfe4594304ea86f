"""Codebooks for parts of the network: which tensors have one together, and one labelling out of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.facts import joined_facts
from methods.stochastic_weight_sharing.sharing.moments import Moments
from methods.stochastic_weight_sharing.sharing.plane import Plane
from methods.stochastic_weight_sharing.sharing.shared import Ellipses, Outliers, Shared, label_dtype

SMALL = 4096
"""Tensors below this many weights have a codebook together: a codebook of their own would outweigh them."""


def codebook_groups(plane: Plane, scope: Literal["scaled", "global", "layer"]) -> list[list[str]]:
    """Names of the tensors that share a codebook, per codebook."""
    if scope != "layer":
        return [list(plane.shapes)]
    small = [name for name, shape in plane.shapes.items() if shape.numel() < SMALL]
    large = [[name] for name, shape in plane.shapes.items() if shape.numel() >= SMALL]
    return [*large, *([small] if small else [])]


def joined(plane: Plane, groups: Sequence[Sequence[str]], parts: Sequence[Shared]) -> Shared:
    """One result over all of `plane`; cluster k of part p becomes cluster k + the clusters of the parts before."""
    clusters = Moments(torch.cat([part.clusters.table for part in parts], dim=1))
    labels = torch.zeros(len(plane), dtype=label_dtype(len(clusters)), device=plane.device)
    starts = _starts(plane.shapes)
    outliers, ellipses, beyond, offset = [], [], [], 0
    for names, part in zip(groups, parts, strict=True):
        to_global = _Renumbering(names, part, starts)
        for (name, own), shape in zip(_by_tensor(part), part.shapes.values(), strict=True):
            labels[starts[name] : starts[name] + shape.numel()] = own.to(labels.dtype) + offset
        outliers.append(Outliers(to_global(part.outliers.index), part.outliers.x, part.outliers.s))
        second = part.ellipses.second + offset
        ellipses.append(Ellipses(to_global(part.ellipses.index), second, part.ellipses.level))
        beyond.append(to_global(part.beyond))
        offset += part.components
    alone = _all_outliers(outliers)
    labels[alone.index] = 0
    return Shared(
        plane.shapes,
        plane.scale,
        labels,
        clusters,
        alone,
        _all_ellipses(ellipses),
        torch.cat(beyond).sort().values,
        joined_facts(parts),
    )


def _all_outliers(parts: Sequence[Outliers]) -> Outliers:
    index = torch.cat([part.index for part in parts])
    order = index.argsort()
    x, s = torch.cat([part.x for part in parts]), torch.cat([part.s for part in parts])
    return Outliers(index[order], x[order], s[order])


def _all_ellipses(parts: Sequence[Ellipses]) -> Ellipses:
    index = torch.cat([part.index for part in parts])
    order = index.argsort()
    second, level = torch.cat([part.second for part in parts]), torch.cat([part.level for part in parts])
    return Ellipses(index[order], second[order], level[order])


class _Renumbering:
    """Flat indices of a part -> flat indices of the whole."""

    def __init__(self, names: Sequence[str], part: Shared, starts: dict[str, int]) -> None:
        device = part.labels.device
        sizes = torch.tensor([part.shapes[name].numel() for name in names], device=device)
        self._ends = sizes.cumsum(0)
        self._shift = torch.tensor([starts[name] for name in names], device=device) - (self._ends - sizes)

    def __call__(self, index: Tensor) -> Tensor:
        return index + self._shift[torch.searchsorted(self._ends, index, right=True)]


def _starts(shapes: dict[str, torch.Size]) -> dict[str, int]:
    starts, total = {}, 0
    for name, shape in shapes.items():
        starts[name] = total
        total += shape.numel()
    return starts


def _by_tensor(part: Shared) -> list[tuple[str, Tensor]]:
    pieces = part.labels.split([shape.numel() for shape in part.shapes.values()])
    return list(zip(part.shapes, pieces, strict=True))
