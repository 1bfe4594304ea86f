"""Weight matching: the permutations of one network's units that bring its weights closest to another's.

Ainsworth, Hayase, Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries" (ICLR 2023): the sum over
tensors of <A, permuted B> is raised group by group, each step a linear assignment with the others fixed. With one
group that is exact; with several there are local optima, so that further runs start from random permutations.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmark import ConfigError, seed_from
from methods.symmetry.blocks import Block, blocks_of
from methods.symmetry.choices import WithinHead
from methods.symmetry.groups import PermutationGroups, Permutations, composed
from methods.symmetry.head_ascent import AttentionAscent, attention_ascents
from methods.symmetry.heads import HeadRotations
from methods.symmetry.matched import Match
from methods.symmetry.one_thread import one_thread
from methods.symmetry.precise import exact_products
from methods.symmetry.similarity import Similarities

MAX_SWEEPS = 100
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-7}
"""A step counts if it gains more than this share of the group's objective, or of 1: more than rounding can."""
THREADED_ELEMENTS = 10_000_000
"""Fewer weights are matched on one thread, whose products are a minor part of the time."""

Pair = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]


def match_weights(
    groups: PermutationGroups,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    restarts: int = 5,
    seed: int = 0,
    scales: Mapping[str, float] | None = None,
    start: Permutations | None = None,
    within_head: WithinHead = "procrustes",
    sigmas: Pair | None = None,
    max_sweeps: int = MAX_SWEEPS,
) -> Match:
    """Permutations for `b` with the largest sum over tensors of <A, permuted B>, and rotations inside its heads.

    Counted are tensors of `a` with an axis of a group; running statistics, tensors without a group (the classifier's
    bias) and key biases without effect are not. The sums are taken on the tensors' device, assignments on the CPU.

    Args:
        a, b: name -> tensor of two networks of one architecture, on one device.
        restarts: runs in all: the first from `start`; the second from groups that are matched one after the other by
            tensors of matched groups only, which finds deep networks again that the first loses in their many other
            tensors; further ones from random permutations. One run is made where it is exact, with no tensor that has
            axes of two groups.
        seed: of random permutations and of the order of groups.
        scales: name -> s, prior standard deviations: tensors are weighted by 1/s^2. All 1 by default.
        start: group -> permutation, may lack groups; by default the identity.
        within_head: see `heads`.
        sigmas: standard deviations of two Gaussians around `a` and `b`, which are permuted along: this minimises the
            2-Wasserstein distance.

    Raises:
        ConfigError: sigmas together with what mixes weights inside a head.
        ValueError: names or shapes differ; fewer than one restart.
    """
    if restarts < 1:
        raise ValueError(f"matching with {restarts} restarts; legal: from 1, which is a single run")
    attentions = [attention for attention in groups.attentions if attention.group in groups.sizes]
    if sigmas is not None and attentions and within_head != "none":
        raise ConfigError(
            f"within_head '{within_head}' mixes weights, and standard deviations cannot be carried along. Legal with "
            "standard deviations: none"
        )
    blocks = blocks_of(groups, a, b, scales)
    heads = attention_ascents(attentions, blocks, within_head)
    if sigmas is not None:
        blocks += blocks_of(groups, *sigmas, scales)
    exact = all(len(block.axes) == 1 for block in blocks)
    runs: list[Match] = []
    small = sum(block.a.numel() for block in blocks) < THREADED_ELEMENTS
    with exact_products(), one_thread() if small else nullcontext():
        for run in range(1 if exact else restarts):
            generator = torch.Generator().manual_seed(seed_from(seed, f"matching {run}"))
            first = groups.random(generator) if run > 1 else start or {}
            ascent = _Ascent(groups, blocks, heads, first)
            if run == 1:
                ascent.settle()
            runs.append(ascent.run(generator, max_sweeps))
    best = max(runs, key=lambda match: match.objective)
    return Match(
        best.permutations,
        best.objective,
        best.gains,
        best.sweeps,
        tuple(match.objective for match in runs),
        best.rotations,
    )


class _Ascent:
    """One run from given permutations of all groups to a local optimum."""

    def __init__(
        self,
        groups: PermutationGroups,
        blocks: list[Block],
        heads: Mapping[str, AttentionAscent],
        start: Permutations,
    ) -> None:
        skip = {(index, group) for group, head in heads.items() for index in head.indices}
        self.similarities = Similarities(blocks, start, skip)
        self.heads = heads
        self.permutations = groups.identity() | {group: permutation.cpu() for group, permutation in start.items()}
        self.rotations: HeadRotations | None = None
        self.gains: list[float] = []
        self.open = [group for group in groups.sizes if any(group in block.axes for block in blocks)]
        """Groups that a step may gain something for: those whose similarities have changed since their last step."""

    def run(self, generator: torch.Generator, max_sweeps: int) -> Match:
        every = list(self.open)
        sweeps = 0
        while self.open and sweeps < max_sweeps:
            sweeps += 1
            for position in torch.randperm(len(every), generator=generator).tolist():
                if every[position] in self.open:
                    self._step(every[position])
        return Match(
            self.permutations,
            self.similarities.objective(),
            tuple(self.gains),
            sweeps,
            rotations=self.rotations,
        )

    def settle(self) -> None:
        """Match groups one after the other, each by the tensors whose other groups have been matched. May lower the
        objective: this is where a run begins."""
        settled: list[str] = []
        left = list(self.open)
        while left:
            ready = [group for group in left if self._can_settle(group, settled)]
            for group in ready[:1]:
                if group in self.heads:
                    self._head_step(group)
                else:
                    similarity = self.similarities.of(group, settled)
                    assert similarity is not None  # else it were not ready
                    columns = linear_sum_assignment(similarity.cpu().double().numpy(), maximize=True)[1]
                    self._take(group, torch.as_tensor(columns, dtype=torch.int64))
                settled.append(group)
                left.remove(group)
            if not ready:
                break
        self.gains.clear()

    def _can_settle(self, group: str, settled: list[str]) -> bool:
        if group in self.heads:
            return self.similarities.neighbours(group) <= set(settled)
        return self.similarities.of(group, settled) is not None

    def _take(self, group: str, order: Tensor) -> None:
        self.similarities.move(group, order)
        self.permutations = composed(self.permutations, {group: order})

    def _step(self, group: str) -> None:
        self.open.remove(group)
        changed = self._head_step(group) if group in self.heads else self._unit_step(group)
        if changed:
            self.open += sorted(self.similarities.neighbours(group) - set(self.open))

    def _unit_step(self, group: str) -> bool:
        similarity = self.similarities.of(group)
        assert similarity is not None  # only the groups of heads lack blocks of their own
        own = similarity.cpu().double().numpy()
        rows, columns = linear_sum_assignment(own, maximize=True)
        now = float(own.trace())
        best = float(own[rows, columns].sum())
        if not self._accepted(best, now, similarity.dtype):
            return False
        self._take(group, torch.as_tensor(columns, dtype=torch.int64))
        return True

    def _head_step(self, group: str) -> bool:
        head = self.heads[group]
        found, now = head.best(self.similarities, self.similarities.of(group))
        if not self._accepted(found.value, now, self.similarities.b[head.indices[0]].dtype):
            return False
        head.take(self.similarities, found)
        self.permutations = composed(self.permutations, {group: found.permutation})
        self.rotations = head.joined(self.rotations, found)
        return True

    def _accepted(self, best: float, now: float, dtype: torch.dtype) -> bool:
        gain = best - now
        if gain <= TOLERANCE[dtype] * max(1.0, abs(now)):
            return False
        self.gains.append(gain)
        return True
