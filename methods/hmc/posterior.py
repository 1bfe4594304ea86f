"""The stored states of chains as a posterior: a uniform mixture of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchmark import BitReader, BitWriter, CorruptBitstream, Fact, Posterior, Weights, on_device_of


class ChainSamples(Posterior):
    """C chains of K states each, equally likely, in half precision; running statistics belong to each state.

    A prediction averages all C K states, whatever the protocol's S: a few of them would be another predictive. There is
    no mean network: states differ in how their units are labelled.
    """

    def __init__(
        self,
        states: Tensor,
        shapes: Mapping[str, torch.Size],
        buffers: Mapping[str, Tensor],
        rest: Mapping[str, Tensor],
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """states: (C, K, P), rounded to float16 here. shapes: of the tensors that lie one after the other in P.
        buffers: name -> (C, K, ...), float32. rest: frozen parameters and buffers that all states share, float32."""
        self.states = states.half()
        self.shapes = dict(shapes)
        self.buffers = {name: buffer.float() for name, buffer in buffers.items()}
        self._rest = {name: tensor.detach().float().clone() for name, tensor in rest.items()}
        self._facts = dict(facts or {})

    @property
    def chains(self) -> int:
        """C."""
        return self.states.shape[0]

    @property
    def per_chain(self) -> int:
        """K."""
        return self.states.shape[1]

    @property
    def support(self) -> int:
        return self.chains * self.per_chain

    @property
    def prediction_draws(self) -> int:
        return self.support

    def finite(self) -> ChainSamples:
        """Without states that hold infinity or no number; those that are left as one chain, unless all are."""
        good = self.states.isfinite().all(-1)
        if bool(good.all()):
            return self
        buffers = {name: buffer[good][None] for name, buffer in self.buffers.items()}
        return ChainSamples(self.states[good][None], self.shapes, buffers, self._rest, self._facts)

    def statistics(self, index: int) -> dict[str, Tensor]:
        """The running statistics of state number `index` of all, chain by chain."""
        return {name: buffer.flatten(0, 1)[index] for name, buffer in self.buffers.items()}

    def weights(self, chain: int, state: int) -> dict[str, Tensor]:
        """One state as named weights, float32, with everything that a forward pass needs."""
        pieces = self.states[chain, state].float().split([shape.numel() for shape in self.shapes.values()])
        own = {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
        return {**self._rest, **own, **{name: buffer[chain, state] for name, buffer in self.buffers.items()}}

    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        """States without randomness: draw i is from chain i mod C, and the states of a chain come in an order whose
        every beginning is spread over the chain. After all of them it starts over."""
        order = spread_order(self.per_chain)
        for index in range(n):
            place = index % self.support
            yield self.weights(place % self.chains, order[place // self.chains])

    def stacked(self) -> dict[str, Tensor]:
        """The sampled parameters, name -> (C K, ...) float32, chain by chain and in the order of time."""
        flat = self.states.flatten(0, 1)
        pieces = flat.split([shape.numel() for shape in self.shapes.values()], dim=1)
        return {
            name: piece.float().view(-1, *shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def with_facts(self, facts: Mapping[str, Fact]) -> ChainSamples:
        """The same with other facts."""
        return ChainSamples(self.states, self.shapes, self.buffers, self._rest, facts)

    def facts(self) -> dict[str, Fact]:
        return dict(self._facts)

    def encode(self, out: BitWriter) -> None:
        """States in float16, statistics and the rest in float32."""
        out.codec = "states-fp16"
        out.json("parameters", list(self.shapes))
        out.tensors("states", {"states": self.states.float()}, "float16")
        out.tensors("buffers", self.buffers)
        out.tensors("rest", self._rest)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> ChainSamples:
        """The inverse of `encode`, on the network's device.

        Raises:
            CorruptBitstream: the bytes are damaged or of another architecture.
        """
        names, own = src.json("parameters"), dict(network.named_parameters())
        states = src.tensors("states").get("states")
        known = isinstance(names, list) and all(isinstance(name, str) and name in own for name in names)
        shapes = {name: own[name].shape for name in names} if known else {}
        size = sum(shape.numel() for shape in shapes.values())
        if states is None or not shapes or states.dim() != 3 or states.shape[2] != size or not states.numel():
            raise CorruptBitstream("the stored states are those of another architecture")
        buffers, rest = on_device_of(network, src.tensors("buffers")), on_device_of(network, src.tensors("rest"))
        if any(buffer.shape[:2] != states.shape[:2] for buffer in buffers.values()):
            raise CorruptBitstream("the stored running statistics are not those of the stored states")
        return cls(on_device_of(network, {"": states})[""], shapes, buffers, rest)


def spread_order(count: int) -> list[int]:
    """0 .. count - 1 in an order whose every beginning is spread evenly: by the reversed bits of the index (van der
    Corput)."""
    bits = max(1, (count - 1).bit_length())
    reversed_bits = (int(f"{index:0{bits}b}"[::-1], 2) for index in range(1 << bits))
    return [index for index in reversed_bits if index < count]
