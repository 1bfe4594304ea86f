"""A point mass whose weights take few values: its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import BitReader, BitWriter, CorruptBitstream, Fact, PointMass, on_device_of, weights_of


@dataclass(frozen=True)
class Quantised:
    """w_i = r codebook[label_i], on the CPU.

    shapes: the tensors, by name; labels run over them in order, row-major. labels: uint8 or int32 (N,). codebook:
    float32 (K,). scale: r, float32 (T,), one per tensor.
    """

    shapes: Mapping[str, torch.Size]
    labels: Tensor
    codebook: Tensor
    scale: Tensor

    def weights(self) -> dict[str, Tensor]:
        """The tensors, float32: one product, of the same bits on every machine."""
        flat = self.codebook.index_select(0, self.labels.int())
        pieces = flat.split([shape.numel() for shape in self.shapes.values()])
        return {
            name: (piece * r).view(shape)
            for (name, shape), piece, r in zip(self.shapes.items(), pieces, self.scale, strict=True)
        }

    def fits(self) -> bool:
        """Whether labels, codebook and scale belong together and to the shapes."""
        return (
            self.labels.dim() == self.codebook.dim() == 1
            and self.scale.shape == (len(self.shapes),)
            and len(self.labels) == sum(shape.numel() for shape in self.shapes.values()) > 0
            and int(self.labels.min()) >= 0
            and int(self.labels.max()) < len(self.codebook)
        )


class QuantisedPoint(PointMass):
    """The network with quantised weights; all other tensors are float32."""

    def __init__(
        self,
        network: nn.Module,
        quantised: Quantised,
        rest: Mapping[str, Tensor],
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """network: on whose device the weights are to be. rest: all tensors that are not quantised."""
        self._quantised, self._rest = quantised, dict(rest)
        super().__init__(on_device_of(network, {**rest, **quantised.weights()}))
        self._facts = dict(facts or {})

    def facts(self) -> dict[str, Fact]:
        """weights, components, rel_mse, index_entropy_bits, target_bytes, val_nll."""
        return dict(self._facts)

    def encode(self, out: BitWriter) -> None:
        """The rest as float32, the codebook, the scales, the entropy-coded labels.

        The names of the quantised weights are not written: they are the parameters that are not in the rest.
        """
        out.codec = "kmeans"
        out.tensors("rest", self._rest)
        out.tensor("codebook", self._quantised.codebook)
        out.tensor("scale", self._quantised.scale)
        out.indices("labels", self._quantised.labels)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> QuantisedPoint:
        """The inverse of `encode`, on the network's device.

        Raises:
            CorruptBitstream: the bytes are damaged, or those of another architecture.
        """
        rest = src.tensors("rest")
        shapes = {name: value.shape for name, value in network.named_parameters() if name not in rest}
        quantised = Quantised(shapes, src.indices("labels"), src.tensor("codebook"), src.tensor("scale"))
        expected = {name: tensor.shape for name, tensor in weights_of(network).items() if name not in shapes}
        if not quantised.fits() or {name: tensor.shape for name, tensor in rest.items()} != expected:
            raise CorruptBitstream("the stored quantised network is that of another architecture")
        return cls(network, quantised, rest)
