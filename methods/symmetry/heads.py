"""Matching attention heads, which have symmetries of their own inside.

Any orthogonal matrix may rotate queries and keys of a head together, and any other its values together with what reads
them: function and Gaussian prior stay as they are. The similarity of two heads must not depend on that, so it is the
best over rotations, a nuclear norm: with X = [q|bq] [q|bq]' + k k' and Y = [v|bv] [v|bv]' + o' o between both
networks (d x d), |X|_* + |Y|_*. The best rotations are the polar factors (Procrustes; Schönemann 1966). The bias of
the keys has no effect and does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from methods.symmetry.choices import WithinHead
from methods.symmetry.groups import Attention, PermutationGroups, Permutations
from methods.symmetry.one_thread import one_thread


@dataclass(frozen=True)
class Heads:
    """The parts of one attention, heads in front.

    q: (h, d, D+1) queries and their bias, or (h, d, D). k: (h, d, D), with the bias where that has an effect. v: (h,
    d, D+1) or (h, d, D). o: (h, d, D), columns of the projection.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor

    @staticmethod
    def of(qkv: Tensor, bias: Tensor | None, proj: Tensor) -> Heads:
        """qkv: (3, h, d, D). bias: (3, h, d), whose part of the keys is zero if it has no effect. proj: (D, h, d)."""
        joined = qkv if bias is None else torch.cat([qkv, bias.unsqueeze(-1)], dim=-1)
        return Heads(joined[0], joined[1], joined[2], proj.permute(1, 2, 0))


@dataclass(frozen=True)
class HeadMatch:
    """permutation: (h,) int64. qk, v: (h, d, d) float64, the rotation of the head that is placed in each slot.
    similarity: (h, h) float64. value: the sum of the similarities of matched heads. All on the CPU."""

    permutation: Tensor
    qk: Tensor
    v: Tensor
    similarity: Tensor
    value: float


@dataclass(frozen=True)
class HeadRotations:
    """Rotations that follow a permutation of the heads. qk, v: path of the attention -> (h, d, d) float64, CPU."""

    qk: Mapping[str, Tensor]
    v: Mapping[str, Tensor]

    def rotated(self, groups: PermutationGroups, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights whose heads are rotated; others are the very same tensors. Tensors that are missing are passed over.

        q <- Q q, k <- Q k, v <- V v, each with its bias, and o <- o V'.
        """
        rotated = dict(weights)
        for attention in groups.attentions:
            if attention.module not in self.qk:
                continue
            qk, v = self.qk[attention.module], self.v[attention.module]
            for name, rotate in (
                (attention.qkv, rotated_qkv),
                (attention.qkv_bias, rotated_qkv),
                (attention.proj, rotated_proj),
            ):
                if name in weights:
                    viewed = groups.viewed(name, weights[name])
                    rotated[name] = rotate(viewed, qk, v).reshape(weights[name].shape)
        return rotated

    def permuted(self, groups: PermutationGroups, permutations: Permutations) -> HeadRotations:
        """The rotations that do the same when they come after a further permutation of the heads."""
        order = {
            attention.module: permutations[attention.group].cpu()
            for attention in groups.attentions
            if attention.group in permutations
        }
        return HeadRotations(
            {module: turn[order[module]] if module in order else turn for module, turn in self.qk.items()},
            {module: turn[order[module]] if module in order else turn for module, turn in self.v.items()},
        )

    def after(self, first: HeadRotations) -> HeadRotations:
        """One step for two, with nothing in between: `first`, then these."""
        return HeadRotations(_products(self.qk, first.qk), _products(self.v, first.v))


def _products(last: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> dict[str, Tensor]:
    both = {module: turn @ first[module] if module in first else turn for module, turn in last.items()}
    return dict(first) | both


def rotated_qkv(qkv: Tensor, qk: Tensor, v: Tensor) -> Tensor:
    """qkv: (3, h, d, D) weights or (3, h, d) biases; qk, v: (h, d, d) of any dtype and device."""
    turns = torch.stack([qk, qk, v]).to(qkv)
    return turns @ qkv if qkv.dim() == 4 else (turns @ qkv.unsqueeze(-1)).squeeze(-1)


def rotated_proj(proj: Tensor, qk: Tensor, v: Tensor) -> Tensor:
    """proj: (D, h, d); v: (h, d, d)."""
    return torch.einsum("xhd,hed->xhe", proj, v.to(proj))


@one_thread()
def match_heads(
    a: Heads, b: Heads, attention: Attention, within: WithinHead, further: Tensor | None = None
) -> HeadMatch:
    """The best permutation of the heads of `b`, and what to do inside of each.

    further: (h, h) similarities of other tensors with an axis of heads.
    """
    x, y = _cross(a.q, b.q) + _cross(a.k, b.k), _cross(a.v, b.v) + _cross(a.o, b.o)
    within_qk = within if attention.rotates_qk else "none"
    similarity = _similarity(x, within_qk) + _similarity(y, within)
    if further is not None:
        similarity = similarity + further.to(similarity)
    similarity = similarity.cpu()
    rows, columns = linear_sum_assignment(similarity.numpy(), maximize=True)
    qk, v = _turns(x[rows, columns], within_qk), _turns(y[rows, columns], within)
    value = float(similarity.numpy()[rows, columns].sum())
    return HeadMatch(torch.as_tensor(columns, dtype=torch.int64), qk.cpu(), v.cpu(), similarity, value)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """(h, h, d, d) float64: products of every head of `a` with every head of `b`, both (h, d, F)."""
    heads, width, _ = a.shape
    product: Tensor = a.reshape(heads * width, -1) @ b.reshape(heads * width, -1).T
    return product.reshape(heads, width, heads, width).transpose(1, 2).double()


def _similarity(cross: Tensor, within: WithinHead) -> Tensor:
    """(h, h): the best that (h, h, d, d) can be made inside each pair of heads."""
    if within == "procrustes":
        values: Tensor = torch.linalg.svdvals(cross)
        return values.sum(-1)
    if within == "none":
        return cross.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (cross * _turns(cross, within).to(cross)).sum((-2, -1))


def _turns(cross: Tensor, within: WithinHead) -> Tensor:
    """(..., d, d): the matrix R of each pair with the largest <R, cross>."""
    if within == "procrustes":
        u, _, vh = torch.linalg.svd(cross)
        polar: Tensor = u @ vh
        return polar
    width = cross.shape[-1]
    unit = torch.eye(width, dtype=cross.dtype)
    if within == "none":
        return unit.expand(cross.shape)
    best = [linear_sum_assignment(pair, maximize=True)[1] for pair in cross.reshape(-1, width, width).cpu().numpy()]
    return torch.stack([unit[columns] for columns in best]).reshape(cross.shape)
