"""Fixed weights as a distribution: the means, or Gaussians around them, and their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchmark import BitReader, BitWriter, Fact, Posterior, Weights, on_device_of
from methods.compressed import parameters_beside
from methods.finetuning.flat import Flat
from methods.fixed_weights.encoding import Stored, read_stored, write_stored


class FixedPosterior(Posterior):
    """N(mu, sigma^2) per weight, mu on few values; without sigma a point mass. Point values for the rest (other
    parameters, running statistics). float32 and exactly what its bytes hold."""

    def __init__(self, stored: Stored, rest: Mapping[str, Tensor], facts: Mapping[str, Fact] | None = None) -> None:
        """rest: float32, on the device of `stored`."""
        self._stored, self._rest = stored, dict(rest)
        self._mean = stored.mean()
        self._facts = dict(facts or {})

    @property
    def support(self) -> int | None:
        return 1 if self._stored.predict == "mean" else None

    @torch.no_grad()
    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        """`n` weight samples mu + sigma eps, all in the same memory: each overwrites the one before. Without sigma,
        the mean `n` times.

        The noise is drawn on the posterior's device by a generator that one 63-bit integer of `generator` seeds, in
        one call per draw: draw k depends neither on n nor on how the samples are used.
        """
        sigma = self._stored.sigma()
        if sigma is None:
            for _ in range(n):
                yield self.mean()
            return
        seed = int(torch.randint(2**63 - 1, (1,), generator=generator))
        noise = torch.Generator(sigma.flat.device).manual_seed(seed)
        sample = Flat.like(self._mean)
        weights = {**self._rest, **sample.views}
        for _ in range(n):
            sample.flat.normal_(generator=noise)
            torch.addcmul(self._mean.flat, sigma.flat, sample.flat, out=sample.flat)
            yield weights

    def mean(self) -> Weights:
        return {**self._rest, **self._mean.views}

    def facts(self) -> dict[str, Fact]:
        return dict(self._facts)

    def encode(self, out: BitWriter) -> None:
        """The rest as float32, then the fixed weights; nothing is lost.

        The names of the fixed tensors are not written: they are the parameters that are not in the rest.
        """
        out.codec = "fixed"
        out.tensors("rest", self._rest)
        write_stored(out, self._stored)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> FixedPosterior:
        """The inverse of `encode`, on the network's device.

        Raises:
            CorruptBitstream: the bytes are damaged or of another architecture.
        """
        rest = on_device_of(network, src.tensors("rest"))
        shapes = parameters_beside(rest, network)
        return cls(read_stored(src, shapes, next(network.parameters()).device), rest)
