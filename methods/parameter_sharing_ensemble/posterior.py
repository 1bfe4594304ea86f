"""A uniform mixture of networks that share one set of weights: its components, and its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import (
    BitReader,
    BitWriter,
    CorruptBitstream,
    Fact,
    Posterior,
    Weights,
    copy_of,
    on_device_of,
    weights_of,
)
from methods.parameter_sharing_ensemble.factors import Factors, mean_factor, write_component


class SharedEnsemble(Posterior):
    """Components W_c = (L_c R_c) * W, c = 1..C, of some weights; all other tensors are the same for all of them."""

    def __init__(
        self,
        shared: Mapping[str, Tensor],
        factors: Factors,
        rest: Mapping[str, Tensor],
        *,
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """shared: W by name. factors: of the same names. rest: other parameters, running statistics. All are copied.

        Raises:
            ValueError: shared is empty, or its names or shapes are not those of the factors.
        """
        if not shared or not _fit(shared, factors.left, factors.right):
            raise ValueError("the weights and their factors need the same names and shapes, at least one of them")
        self._shared = {name: tensor.contiguous() for name, tensor in copy_of(shared).items()}
        self._factors = Factors(copy_of(factors.left), copy_of(factors.right))
        self._rest = copy_of(rest)
        self._facts = dict(facts or {})

    @property
    def support(self) -> int:
        return self._factors.components

    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        """The first `n` components in order, all in the same memory: each overwrites the one before. More than C start
        over.

        The generator is not used: components are exchangeable, so the first n are as good as n at random, the choice
        is without replacement, and few draws are a prefix of many.
        """
        out = {name: torch.empty_like(weight) for name, weight in self._shared.items()}
        weights = {**self._rest, **out}
        for index in range(n):
            write_component(out, self._shared, self._factors, index % self.support)
            yield weights

    def mean(self) -> Weights:
        """The mean of the components' weights: they are variations of one network, so it is a network of its own."""
        left, right = self._factors.left, self._factors.right
        means = {
            name: mean_factor(left[name], right[name]).view_as(weight).mul_(weight)
            for name, weight in self._shared.items()
        }
        return {**self._rest, **means}

    def facts(self) -> dict[str, Fact]:
        return dict(self._facts)

    def encode(self, out: BitWriter) -> None:
        """W, L, R and the rest, as float32."""
        out.tensors("shared", self._shared)
        out.tensors("left", self._factors.left)
        out.tensors("right", self._factors.right)
        out.tensors("rest", self._rest)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> SharedEnsemble:
        """The inverse of `encode`, on the network's device.

        Raises:
            CorruptBitstream: the bytes are damaged, or those of another architecture.
        """
        shared, left, right, rest = (
            on_device_of(network, src.tensors(section)) for section in ("shared", "left", "right", "rest")
        )
        stored = {name: tensor.shape for name, tensor in (shared | rest).items()}
        own = {name: tensor.shape for name, tensor in weights_of(network).items()}
        if stored != own or shared.keys() & rest.keys() or not shared or not _fit(shared, left, right):
            raise CorruptBitstream("the stored ensemble is that of another architecture")
        return cls(shared, Factors(left, right), rest)


def _fit(shared: Mapping[str, Tensor], left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether every weight has its factors (C, O, r) and (C, r, J), with one C >= 1 and one r >= 1 for all."""
    if not shared.keys() == left.keys() == right.keys():
        return False
    first = next(iter(left.values())).shape
    if len(first) != 3 or min(first[0], first[2]) < 1:
        return False
    components, rank = first[0], first[2]
    return all(
        left[name].shape == (components, len(weight), rank)
        and right[name].shape == (components, rank, weight[0].numel())
        for name, weight in shared.items()
    )
