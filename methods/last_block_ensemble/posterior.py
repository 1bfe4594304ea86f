"""C networks that differ in their last block: drawing, bytes, and the variance of their features as a score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from benchmark import CorruptBitstream, Fact, Posterior, Weights, copy_of, on_device_of, weights_of
from methods.last_block_ensemble.block import Place, feature_variance

if TYPE_CHECKING:
    from benchmark import BitReader, BitWriter


class LastBlockPosterior(Posterior):
    """A uniform mixture of C weight samples. `draws(C)` yields every member in order; fewer are the first ones, more
    start over. Stored as float32, bit-exact: the shared weights once, C copies of the others."""

    score_name: ClassVar[str | None] = "feature_variance"

    def __init__(
        self,
        shared: Mapping[str, Tensor],
        stacks: Mapping[str, Tensor],
        place: Place,
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """stacks: name -> (C, *shape), C >= 2. All tensors are copied.

        Raises:
            ValueError: no stack, or stacks of different or too few members.
        """
        counts = {len(stack) for stack in stacks.values()}
        if len(counts) != 1 or min(counts) < 2:
            raise ValueError(f"an ensemble needs stacks of one number of members from 2, got {sorted(counts)}")
        self.shared, self.stacks, self.place = copy_of(shared), copy_of(stacks), place
        self._facts = dict(facts or {})

    @property
    def support(self) -> int:
        return len(next(iter(self.stacks.values())))

    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        for index in range(n):
            member = index % self.support
            yield {**self.shared, **{name: stack[member] for name, stack in self.stacks.items()}}

    def score(self, network: nn.Module, draws: Sequence[Weights], inputs: Tensor) -> Tensor | None:
        """Feature variance: that of the feature map over the members in `draws`, unbiased, averaged over its entries.

        float32 (n,) for inputs (n, C, H, W), differentiable in them; None for fewer than two draws. The weights before
        the last block run once, all members of the block together, on at most 1,024 rows at a time.
        """
        if len(draws) < 2:
            return None
        stacks = {name: torch.stack([weights[name] for weights in draws]) for name in self.stacks}
        shared = {name: tensor for name, tensor in draws[0].items() if name not in stacks}
        return feature_variance(network, self.place, shared, stacks, inputs)

    def facts(self) -> dict[str, Fact]:
        """components, blocks, copied_weights (of one member), without_copies (names of trained weights of the block
        that all members share), entrance, features (the modules where the block begins and where its features are),
        alpha, gamma, noise, feature_distance_clean and _noisy (mean over training examples and pairs of members, at
        the end), lr, lr_rest, and what `fine_tune` reports."""
        return dict(self._facts)

    def encode(self, out: BitWriter) -> None:
        out.json("place", {"entrance": self.place.entrance, "exit": self.place.exit})
        out.tensors("shared", self.shared)
        out.tensors("stacks", self.stacks)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> LastBlockPosterior:
        """The inverse of `encode`, on the network's device.

        Raises:
            CorruptBitstream: the bytes are damaged, or of another method or architecture.
        """
        place = src.json("place")
        shared, stacks = src.tensors("shared"), src.tensors("stacks")
        found = {name: tensor.shape for name, tensor in shared.items()}
        found |= {name: stack.shape[1:] for name, stack in stacks.items()}
        modules = dict(network.named_modules())
        if (
            found != {name: tensor.shape for name, tensor in weights_of(network).items()}
            or len({stack.shape[:1] for stack in stacks.values()}) != 1
            or not {place["entrance"], place["exit"]} <= set(modules)
        ):
            raise CorruptBitstream("the stored members are those of another architecture")
        return cls(on_device_of(network, shared), on_device_of(network, stacks), Place(**place))
