"""Similarities of the units of two networks under permutations that change one group at a time, kept up to date.

S_g sums, over all tensors with an axis of group g, the products of both networks' unfoldings along it, with the other
axes of the second network as they are permuted now. A step of coordinate ascent moves one group, most of the time a
few of its units: then the S of its neighbours is corrected by those units' part, a product that is thinner than the
whole by as much as few units are fewer than all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.symmetry.blocks import Block, unfold
from methods.symmetry.groups import Permutations

THIN = 0.5
"""Share of a group's units up to which their part is corrected; above, everything is computed anew when needed."""


@dataclass
class Bundle:
    """The part of one group's similarity from blocks that share their other groups: (n, n), None when out of date."""

    blocks: list[int]
    value: Tensor | None = None


class Similarities:
    """The state of the second network: its blocks as they are permuted now.

    b: the blocks' second tensors. Rows of S are slots of the first network, columns *slots* of the second as it is
    now, so that the diagonal is what the present permutations are worth. Not thread-safe.
    """

    def __init__(
        self, blocks: Sequence[Block], start: Permutations, skip: Collection[tuple[int, str]] = frozenset()
    ) -> None:
        """start: group -> permutation, may lack groups. skip: (index of a block, group) that is no part of S_g."""
        self.blocks = blocks
        self.b = [_permuted(block, start) for block in blocks]
        self._bundles: dict[str, dict[frozenset[str], Bundle]] = {}
        for index, block in enumerate(blocks):
            for group in block.axes:
                bundles = self._bundles.setdefault(group, {})
                if (index, group) not in skip:
                    others = frozenset(block.axes) - {group}
                    bundles.setdefault(others, Bundle([])).blocks.append(index)
        self._bundle_of = {
            (index, group): bundle
            for group, bundles in self._bundles.items()
            for bundle in bundles.values()
            for index in bundle.blocks
        }
        self._at = {
            group: [index for index, block in enumerate(blocks) if group in block.axes] for group in self._bundles
        }

    def of(self, group: str, settled: Collection[str] | None = None) -> Tensor | None:
        """S of a group, (n, n) in the blocks' dtype; None without blocks. settled: only blocks of these other groups
        count."""
        total: Tensor | None = None
        for others, bundle in self._bundles[group].items():
            if settled is not None and not others <= set(settled):
                continue
            if bundle.value is None:
                bundle.value = self._computed(bundle, group)
            total = bundle.value if total is None else total + bundle.value
        return total

    def neighbours(self, group: str) -> set[str]:
        """The groups whose S depends on this one."""
        return {other for index in self._at[group] for other in self.blocks[index].axes if other != group}

    def move(self, group: str, order: Tensor) -> None:
        """Permute a group's units in the second network: slot i gets what is in slot `order[i]`; (n,) int64, CPU."""
        moved = (order != torch.arange(len(order))).nonzero().squeeze(1)
        few = len(moved) <= THIN * len(order)
        for index in self._at[group]:
            self._move_block(index, group, order, moved if few else None)
        for bundle in self._bundles[group].values():
            if bundle.value is not None:
                bundle.value = bundle.value.index_select(1, order.to(bundle.value.device))

    def replace(self, index: int, tensor: Tensor) -> None:
        """Put another tensor, laid out as the block, in the place of a block's second one."""
        self.b[index] = tensor
        for group in self.blocks[index].axes:
            if (index, group) in self._bundle_of:
                self._bundle_of[index, group].value = None

    def objective(self) -> float:
        """Sum of the products of both networks; in float64 across blocks."""
        products = [torch.dot(block.a.reshape(-1), b.reshape(-1)) for block, b in zip(self.blocks, self.b, strict=True)]
        return float(torch.stack(products).double().sum()) if products else 0.0

    def _computed(self, bundle: Bundle, group: str) -> Tensor:
        total: Tensor | None = None
        for index in bundle.blocks:
            axis = self.blocks[index].axes[group]
            first, second = unfold(self.blocks[index].a, axis), unfold(self.b[index], axis)
            total = first @ second.T if total is None else total.addmm_(first, second.T)
        assert total is not None  # a bundle is made for its first block
        return total

    def _move_block(self, index: int, group: str, order: Tensor, moved: Tensor | None) -> None:
        """moved: the slots that change, where they are few."""
        block, b = self.blocks[index], self.b[index]
        axis = block.axes[group]
        if moved is None:
            self._outdate(index, group)
            self.b[index] = b.index_select(axis, order.to(b.device))
            return
        there, source = moved.to(b.device), order[moved].to(b.device)
        coming = b.index_select(axis, source)
        change = coming - b.index_select(axis, there)
        first = block.a.index_select(axis, there)
        for other, other_axis in block.axes.items():
            bundle = self._bundle_of.get((index, other))
            if other != group and bundle is not None and bundle.value is not None:
                bundle.value.addmm_(unfold(first, other_axis), unfold(change, other_axis).T)
        b.index_copy_(axis, there, coming)

    def _outdate(self, index: int, group: str) -> None:
        """Mark as out of date what other groups have from a block."""
        for other in self.blocks[index].axes:
            bundle = self._bundle_of.get((index, other))
            if other != group and bundle is not None:
                bundle.value = None


def _permuted(block: Block, permutations: Permutations) -> Tensor:
    """A new tensor, contiguous."""
    b = block.b
    for group, axis in block.axes.items():
        if group in permutations:
            b = b.index_select(axis, permutations[group].to(b.device))
    return b.clone() if b is block.b else b
