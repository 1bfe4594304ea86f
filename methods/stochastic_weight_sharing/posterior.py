"""Shared Gaussians as a distribution over the weights: drawing, and its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchmark import BitReader, BitWriter, Fact, Posterior, Weights, on_device_of
from methods.compressed import parameters_beside
from methods.stochastic_weight_sharing.codebook import codebook_of
from methods.stochastic_weight_sharing.encoding import (
    Storage,
    Stored,
    read_stored,
    rounded_outliers,
    write_stored,
)
from methods.stochastic_weight_sharing.gaussians import SharedGaussians
from methods.stochastic_weight_sharing.sampler import SAMPLERS, Sampling


class SharedPosterior(Posterior):
    """K shared Gaussians and |O| of single weights; point values for the rest (other parameters, running statistics).

    float32, and rounded to what its bytes hold, so that the decoded posterior is this one.
    """

    def __init__(
        self,
        stored: Stored,
        rest: Mapping[str, Tensor],
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """stored: rounded numbers (see `of`), on the device of `rest`."""
        labelling = stored.labelling
        r = labelling.outliers.spread(labelling.scale)
        self._stored, self._rest = stored, dict(rest)
        self._sampler = SAMPLERS[stored.sampling](
            SharedGaussians(
                labelling,
                codebook_of(stored.table),
                (stored.outlier_x.double() * r).float(),
                (stored.outlier_log_s.double() + r.log()).float(),
            )
        )
        self._facts = dict(facts or {})

    @classmethod
    def of(
        cls,
        gaussians: SharedGaussians,
        rest: Mapping[str, Tensor],
        sampling: Sampling,
        storage: Storage,
        facts: Mapping[str, Fact] | None = None,
    ) -> SharedPosterior:
        """Copies, rounded to what `storage` keeps: see `rounded_outliers`."""
        labelling = gaussians.labelling
        r = labelling.outliers.spread(labelling.scale)
        x = gaussians.outlier_mean.detach().double() / r
        log_s = gaussians.outlier_log_sd.detach().double() - r.log()
        table = gaussians.codebook.table.detach().to(torch.float32, copy=True)
        stored = Stored(labelling, table, *rounded_outliers(x, log_s, storage), sampling, storage)
        own = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in rest.items()}
        return cls(stored, own, facts)

    @property
    def gaussians(self) -> SharedGaussians:
        """Codebook, outliers and labels."""
        return self._sampler.gaussians

    @torch.no_grad()
    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        """`n` weight samples, all in the same memory: each overwrites the one before.

        The noise is drawn on the posterior's device by a generator that one 63-bit integer of `generator` seeds, in
        equal portions per draw: draw k depends neither on n nor on how the samples are used.
        """
        seed = int(torch.randint(2**63 - 1, (1,), generator=generator))
        noise = torch.Generator(self._stored.table.device).manual_seed(seed)
        draw = self._sampler.drawing()
        for _ in range(n):
            yield {**self._rest, **draw(noise)}

    def mean(self) -> Weights:
        return {**self._rest, **self._sampler.moments()[0].views}

    def mean_and_sd(self) -> tuple[Weights, Weights]:
        """Mean and standard deviation of every shared weight and outlier, by name."""
        mean, sd = self._sampler.moments()
        return mean.views, sd.views

    def facts(self) -> dict[str, Fact]:
        return dict(self._facts)

    def encode(self, out: BitWriter) -> None:
        """The rest as float32, then the Gaussians; nothing is lost.

        The names of the shared tensors are not written: they are the parameters that are not in the rest.
        """
        out.codec = self._stored.storage
        out.tensors("rest", self._rest)
        write_stored(out, self._stored)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> SharedPosterior:
        """The inverse of `encode`, on the network's device.

        Raises:
            CorruptBitstream: the bytes are damaged or of another architecture.
        """
        rest = on_device_of(network, src.tensors("rest"))
        shapes = parameters_beside(rest, network)
        return cls(read_stored(src, shapes, next(network.parameters()).device), rest)
