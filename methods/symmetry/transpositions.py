"""How far a permutation is from leaving everything in place: its number of transpositions (NoT).

Xiao, Liu, Bamler, "A Compact Representation for Bayesian Neural Networks By Removing Permutation Symmetry" (arXiv
2401.00611). NoT saturates: that of a uniformly random permutation is nearly n - ln n, so a value means little without
its chance line, `chance`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.symmetry.groups import Permutations

Permutation = Tensor | Sequence[int]
"""A permutation of 0..n-1: n integers."""


@dataclass(frozen=True)
class Chance:
    """Mean and standard deviation of NoT for uniformly random permutations, independent where there are several."""

    mean: float
    std: float


@dataclass(frozen=True)
class Transpositions:
    """NoT of the permutations of several groups. per_group: group -> 0..n-1; total: their sum.

    normalised: total over its mean by chance, 0 at the identity and about 1 by chance. z: total minus that mean, in
    standard deviations. Where every group has one unit, and nothing can move, both are 0.
    """

    per_group: Mapping[str, int]
    total: int
    chance: Chance

    @property
    def normalised(self) -> float:
        return self.total / self.chance.mean if self.chance.mean else 0.0

    @property
    def z(self) -> float:
        return (self.total - self.chance.mean) / self.chance.std if self.chance.std else 0.0


def cycles(permutation: Permutation) -> list[list[int]]:
    """The cycles i -> permutation[i], fixed points too: each from its smallest element, in the order of those. O(n).

    Raises:
        ValueError: not a permutation of 0..n-1.
    """
    following = _checked(permutation)
    seen = bytearray(len(following))
    found = []
    for first in range(len(following)):
        if not seen[first]:
            cycle, at = [], first
            while not seen[at]:
                seen[at] = 1
                cycle.append(at)
                at = following[at]
            found.append(cycle)
    return found


def transpositions(permutation: Permutation) -> int:
    """NoT: the fewest swaps that make up the permutation, n minus the number of its cycles. O(n).

    Raises:
        ValueError: not a permutation of 0..n-1.
    """
    return len(permutation) - len(cycles(permutation))


def transpositions_of(permutations: Permutations) -> Transpositions:
    """NoT of every group, and of all together against chance."""
    per_group = {group: transpositions(permutation) for group, permutation in permutations.items()}
    sizes = [len(permutation) for permutation in permutations.values()]
    return Transpositions(per_group, sum(per_group.values()), chance(*sizes))


def cayley_distance(p: Permutation, q: Permutation) -> int:
    """The fewest swaps between two permutations of as many elements, NoT(p^-1 q). A metric.

    Raises:
        ValueError: one is not a permutation, or they differ in size.
    """
    first, then = _checked(p), _checked(q)
    if len(first) != len(then):
        raise ValueError(f"permutations of {len(first)} and of {len(then)} elements have no distance")
    back = [0] * len(first)
    for place, unit in enumerate(first):
        back[unit] = place
    return transpositions([back[unit] for unit in then])


def chance(*sizes: int) -> Chance:
    """Of permutations of n elements, summed over `sizes`: mean n - H_n, variance H_n - sum of 1/k^2 for k up to n."""
    mean = sum(n - _harmonic(n, 1) for n in sizes)
    return Chance(mean, math.sqrt(sum(_harmonic(n, 1) - _harmonic(n, 2) for n in sizes)))


def planted_permutation(n: int, count: int, generator: torch.Generator) -> Tensor:
    """A random permutation of n elements, (n,) int64, with NoT exactly `count`; not uniform among those.

    n - count cycles begin with one element, each further element joins a cycle drawn uniformly, and every cycle is
    shifted by one place. `generator` is on the CPU.

    Raises:
        ValueError: count is not within 0..n-1.
    """
    if not 0 <= count <= n - 1:
        raise ValueError(f"no permutation of {n} elements has {count} transpositions; legal: 0..{n - 1}")
    started = n - count
    joined = torch.randint(started, (count,), generator=generator).tolist()
    members: list[list[int]] = [[] for _ in range(started)]
    for element, cycle in zip(torch.randperm(n, generator=generator).tolist(), [*range(started), *joined], strict=True):
        members[cycle].append(element)
    permutation = torch.arange(n)
    for cycle_members in members:
        permutation[cycle_members] = torch.tensor(cycle_members).roll(-1)
    return permutation


def _harmonic(n: int, power: int) -> float:
    return math.fsum(1 / k**power for k in range(1, n + 1))


def _checked(permutation: Permutation) -> list[int]:
    values = permutation.tolist() if isinstance(permutation, Tensor) else list(permutation)
    if sorted(values) != list(range(len(values))):
        shown = ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
        raise ValueError(f"not a permutation of 0..{len(values) - 1}: {shown}")
    return values
