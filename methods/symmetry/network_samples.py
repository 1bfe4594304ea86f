"""Samples of any network, matched one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from methods.symmetry.blocks import weight_names
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.match import Matching, match
from methods.symmetry.matched import Match, apply
from methods.symmetry.stack import applied, mean_of, sample_of


class NetworkSamples:
    """Samples of a network and how they are relabelled at present; `stack` is only read."""

    def __init__(self, groups: PermutationGroups, stack: Mapping[str, Tensor], matching: Matching) -> None:
        self._groups, self._stack, self._matching = groups, stack, matching
        self._matches = [Match(groups.identity(), 0.0)] * self.count
        self._aligned: dict[str, Tensor] = dict(stack)

    @property
    def count(self) -> int:
        return len(next(iter(self._stack.values())))

    def match_to_sample(self, index: int) -> None:
        reference = sample_of(self._stack, index)
        for own in range(self.count):
            if own != index:
                sample = sample_of(self._stack, own)
                self._matches[own] = match(self._groups, reference, sample, self._matching)
        self.restore(self._matches)

    def match_to_unaligned_mean(self) -> None:
        mean = mean_of(self._stack)
        samples = (sample_of(self._stack, index) for index in range(self.count))
        self.restore([match(self._groups, mean, sample, self._matching) for sample in samples])

    def sweep(self, *, others: bool) -> bool:
        """Match every sample, as it is now, to the mean of all or of the others; whether anything has changed."""
        changed = False
        total = {name: tensor.sum(0, dtype=torch.float64) for name, tensor in self._aligned.items()}
        mean = mean_of(self._aligned)
        for index in range(self.count):
            now = sample_of(self._aligned, index)
            target = mean
            if others:
                target = {name: ((total[name] - now[name]) / (self.count - 1)).to(now[name].dtype) for name in now}
            found = match(self._groups, target, now, self._matching, restarts=1)
            if not _moves(found):
                continue
            changed = True
            self._matches[index] = found.after(self._matches[index], self._groups)
            # From the sample itself: rounding of rotations does not add up.
            coming = apply(self._groups, self._matches[index], sample_of(self._stack, index))
            for name, tensor in now.items():
                if others:
                    total[name] += coming[name].double() - tensor.double()
                tensor.copy_(coming[name])
        return changed

    def spread(self) -> float:
        """J in float64."""
        parts = []
        silent = {attention.qkv_bias for attention in self._groups.attentions if attention.key_bias}
        scales = self._matching.scales or {}
        for name in weight_names(self._stack):
            tensor = self._aligned[name]
            mean = tensor.mean(0, dtype=torch.float64)
            squares = torch.zeros_like(mean)
            for own in tensor:
                squares += (own.double() - mean).square()
            if name in silent:
                squares = self._groups.viewed(name, squares).clone()
                squares[1] = 0
            parts.append(squares.sum() / scales.get(name, 1.0) ** 2)
        return float(torch.stack(parts).sum())

    def matches(self) -> list[Match]:
        return list(self._matches)

    def restore(self, matches: Sequence[Match]) -> None:
        self._matches = list(matches)
        self._aligned = applied(self._groups, self._stack, self._matches)


def _moves(found: Match) -> bool:
    if found.rotations is not None:
        return True
    return any(
        bool((permutation != torch.arange(len(permutation))).any()) for permutation in found.permutations.values()
    )
