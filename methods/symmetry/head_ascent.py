"""The step of coordinate ascent for the heads of one attention."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.symmetry.blocks import Block
from methods.symmetry.choices import WithinHead
from methods.symmetry.groups import Attention
from methods.symmetry.heads import HeadMatch, HeadRotations, Heads, match_heads, rotated_proj, rotated_qkv
from methods.symmetry.similarity import Similarities


@dataclass(frozen=True)
class AttentionAscent:
    """One attention among the blocks. indices: of the blocks of its weight of queries, keys and values, of the
    projection, and of the bias, if there is one."""

    attention: Attention
    within: WithinHead
    a: Heads
    indices: tuple[int, ...]

    def best(self, state: Similarities, further: Tensor | None) -> tuple[HeadMatch, float]:
        """The best permutation and rotations, and what the present ones are worth."""
        b = _heads([state.blocks[index].as_viewed(state.b[index]) for index in self.indices])
        found = match_heads(self.a, b, self.attention, self.within, further)
        pairs = [(self.a.q, b.q), (self.a.k, b.k), (self.a.v, b.v), (self.a.o, b.o)]
        now = float(torch.stack([(first.double() * second.double()).sum() for first, second in pairs]).sum())
        return found, now + (0.0 if further is None else float(further.double().trace()))

    def take(self, state: Similarities, found: HeadMatch) -> None:
        """Permute the heads of the second network, all blocks with their axis, and rotate them inside."""
        state.move(self.attention.group, found.permutation)
        for index, rotated in zip(self.indices, (rotated_qkv, rotated_proj, rotated_qkv), strict=False):
            block = state.blocks[index]
            viewed = rotated(block.as_viewed(state.b[index]), found.qk, found.v)
            state.replace(index, block.laid_out(viewed))

    def joined(self, rotations: HeadRotations | None, found: HeadMatch) -> HeadRotations:
        """All rotations of a run, with those that have just been made."""
        module, order = self.attention.module, found.permutation
        before = HeadRotations({}, {}) if rotations is None else rotations
        qk, v = before.qk.get(module), before.v.get(module)
        return HeadRotations(
            {**before.qk, module: found.qk if qk is None else found.qk @ qk[order]},
            {**before.v, module: found.v if v is None else found.v @ v[order]},
        )


def attention_ascents(
    attentions: Collection[Attention], blocks: Sequence[Block], within: WithinHead
) -> dict[str, AttentionAscent]:
    """Group of heads -> its attention. blocks: of both networks' weights.

    Raises:
        ValueError: a weight of an attention is missing, or one of its axes belongs to several groups end to end.
    """
    found = {}
    for attention in attentions:
        own = {
            name: [index for index, block in enumerate(blocks) if block.name == name]
            for name in (attention.qkv, attention.proj, attention.qkv_bias)
        }
        for name, places in own.items():
            if len(places) != 1 and (places or name != attention.qkv_bias):
                raise ValueError(f"'{name}' is {len(places)} blocks of units; heads can be matched where it is one")
        indices = tuple(index for places in own.values() for index in places)
        a = _heads([blocks[index].as_viewed(blocks[index].a) for index in indices])
        found[attention.group] = AttentionAscent(attention, within, a, indices)
    return found


def _heads(viewed: Sequence[Tensor]) -> Heads:
    qkv, proj, *bias = viewed
    return Heads.of(qkv, bias[0] if bias else None, proj)
