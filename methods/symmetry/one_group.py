"""Samples of networks with one hidden layer: the exact match of all of them to one reference at once.

A unit is a row of all weights that touch it (incoming, bias, outgoing), so that the similarities of all samples are
one batched product of matrices; one assignment per sample remains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from methods.symmetry.blocks import matched_names, weight_names
from methods.symmetry.cosine_matching import first_layer, unit_rows
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.match import Matching
from methods.symmetry.matched import Match
from methods.symmetry.stack import sample_of


def is_one_group(groups: PermutationGroups, stack: Mapping[str, Tensor]) -> bool:
    """Whether there is one group of units, once in each tensor, and no attention."""
    if len(groups.sizes) != 1 or groups.attentions:
        return False
    (group,) = groups.sizes
    return all(len(places) == 1 for places in groups.places(group).values())


class OneGroupSamples:
    """Samples of a network with one group and how they are relabelled at present; `stack` is only read."""

    def __init__(self, groups: PermutationGroups, stack: Mapping[str, Tensor], matching: Matching) -> None:
        (self._group,) = groups.sizes
        names = matched_names(groups, sample_of(stack, 0), matching.scales)
        scales = matching.scales or {}
        rows = [_units(groups, self._group, name, stack[name]) / scales.get(name, 1.0) for name in names]
        self._units = torch.cat(rows, dim=2)  # (K, n, F)
        self._cosine = matching.method == "cosine_fc1"
        self._features = self._units
        if self._cosine:
            name = first_layer(groups)[1]
            self._features = _units(groups, self._group, name, stack[name])
        count, size, _ = self._units.shape
        self._permutations = torch.arange(size).repeat(count, 1)
        self._objectives = torch.zeros(count, dtype=torch.float64)
        self._rest = sum(
            _squares_around_mean(stack[name]) / scales.get(name, 1.0) ** 2
            for name in weight_names(stack)
            if name not in names
        )

    @property
    def count(self) -> int:
        return len(self._units)

    def match_to_sample(self, index: int) -> None:
        self._match_all(self._features[index])
        self._permutations[index] = torch.arange(self._units.shape[1])

    def match_to_unaligned_mean(self) -> None:
        self._match_all(self._features.mean(0))

    def sweep(self, *, others: bool) -> bool:
        """Match every sample to the mean of all or of the others; whether anything has changed."""
        before = self._permutations.clone()
        if others:
            self._match_each_to_others()
        else:
            self._match_all(self._permuted(self._features).mean(0))
        return not torch.equal(before, self._permutations)

    def spread(self) -> float:
        """J in float64."""
        return _squares_around_mean(self._permuted(self._units)) + float(self._rest)

    def matches(self) -> list[Match]:
        pairs = zip(self._permutations.clone(), self._objectives.tolist(), strict=True)
        return [Match({self._group: own}, objective) for own, objective in pairs]

    def restore(self, matches: Sequence[Match]) -> None:
        self._permutations = torch.stack([match.permutations[self._group] for match in matches])
        self._objectives = torch.tensor([match.objective for match in matches], dtype=torch.float64)

    def _match_all(self, reference: Tensor) -> None:
        """reference: (n, F)."""
        similarities = self._compared(reference) @ self._compared(self._features).transpose(1, 2)  # (K, n, n)
        self._assign(slice(None), similarities)

    def _match_each_to_others(self) -> None:
        total = self._permuted(self._features).sum(0)
        for index in range(self.count):
            own = self._features[index]
            others = total - own[self._there(index)]
            self._assign(slice(index, index + 1), (self._compared(others) @ self._compared(own).T).unsqueeze(0))
            total = others + own[self._there(index)]

    def _assign(self, which: slice, similarities: Tensor) -> None:
        """similarities: (k, n, n) float64, of slots and units of k samples. Ties leave the units where they are."""
        now = self._permutations[which]
        values = similarities.cpu().take_along_dim(now.unsqueeze(1), dim=2)
        present = values.diagonal(dim1=1, dim2=2).sum(1)
        orders = torch.from_numpy(
            np.stack([linear_sum_assignment(value, maximize=True)[1] for value in values.numpy()])
        )
        best = values.take_along_dim(orders.unsqueeze(-1), dim=2).sum((1, 2))
        better = best - present > 1e-9 * present.abs().clamp(min=1.0)
        self._permutations[which] = torch.where(better.unsqueeze(1), now.take_along_dim(orders, dim=1), now)
        self._objectives[which] = torch.where(better, best, present)

    def _compared(self, features: Tensor) -> Tensor:
        return unit_rows(features, leading=features.dim() - 2) if self._cosine else features

    def _permuted(self, units: Tensor) -> Tensor:
        """(K, n, F), as relabelled now."""
        return units.take_along_dim(self._permutations.to(units.device).unsqueeze(-1), dim=1)

    def _there(self, index: int) -> Tensor:
        return self._permutations[index].to(self._features.device)


def _units(groups: PermutationGroups, group: str, name: str, tensor: Tensor) -> Tensor:
    """(K, n, F) float64: what a tensor (K, ...) holds of each unit."""
    ((axis, start),) = groups.places(group)[name]
    viewed = groups.viewed(name, tensor, leading=1).narrow(1 + axis, start, groups.sizes[group])
    return viewed.movedim(1 + axis, 1).flatten(2).double() if viewed.dim() > 2 else viewed.unsqueeze(-1).double()


def _squares_around_mean(samples: Tensor) -> float:
    """Sum over K samples of squared distances to their mean."""
    values = samples.double()
    return float((values - values.mean(0)).square().sum())
