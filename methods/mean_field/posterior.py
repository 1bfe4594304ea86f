"""The factorised Gaussian over named weights: drawing, and its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark import BitReader, BitWriter, CorruptBitstream, Fact, Posterior, Weights, copy_of
from methods.finetuning.flat import Flat
from methods.mean_field.encoding import read_gaussians, write_gaussians

Encoding = Literal["sigma_aware", "raw"]


class GaussianPosterior(Posterior):
    """N(mu, exp(2 psi)) for the Bayesian tensors, point values for the rest (other parameters, running statistics)."""

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        log_sd: Mapping[str, Tensor],
        rest: Mapping[str, Tensor],
        *,
        encoding: Encoding = "sigma_aware",
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """mean, log_sd: mu and psi by name, same names, shapes, dtype and device. All tensors are copied.

        Raises:
            ValueError: no Bayesian tensor, or mean and log_sd differ in names or shapes.
        """
        if not mean or [(n, t.shape) for n, t in mean.items()] != [(n, t.shape) for n, t in log_sd.items()]:
            raise ValueError("mean and log_sd need the same names and shapes, at least one of them")
        self._mean, self._log_sd = Flat.copy_of(mean), Flat.copy_of(log_sd)
        self._rest = copy_of(rest)
        self.encoding: Encoding = encoding
        self._facts = dict(facts or {})

    @property
    def log_sd(self) -> Mapping[str, Tensor]:
        """psi by name."""
        return self._log_sd.views

    @torch.no_grad()
    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        """`n` weight samples, all in the same memory: each overwrites the one before.

        The noise is drawn on the posterior's device by a generator that one 63-bit integer of `generator` seeds, in
        one call per draw: draw k depends neither on n nor on how the samples are used.
        """
        seed = int(torch.randint(2**63 - 1, (1,), generator=generator))
        noise = torch.Generator(self._mean.flat.device).manual_seed(seed)
        sample, sigma = Flat.like(self._mean), self._log_sd.flat.exp()
        weights = {**self._rest, **sample.views}
        for _ in range(n):
            sample.flat.normal_(generator=noise)
            torch.addcmul(self._mean.flat, sigma, sample.flat, out=sample.flat)
            yield weights

    def mean(self) -> Weights:
        return {**self._rest, **self._mean.views}

    def facts(self) -> dict[str, Fact]:
        return dict(self._facts)

    def encode(self, out: BitWriter) -> None:
        """The rest as float32, then mu and psi in the chosen encoding.

        The Bayesian names are not written: they are the parameters that are not in the rest.
        """
        out.codec = self.encoding
        out.json("encoding", self.encoding)
        out.tensors("rest", self._rest)
        if self.encoding == "raw":
            out.tensors("mean", self._mean.views)
            out.tensors("log_sd", self._log_sd.views)
        else:
            write_gaussians(out, self._mean.views, self._log_sd.views)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> GaussianPosterior:
        """The inverse of `encode`, on the network's device.

        Raises:
            CorruptBitstream: the bytes are damaged, of an unknown encoding, or of another architecture.
        """
        device = next(network.parameters()).device
        name: Encoding = src.json("encoding")
        rest = {key: tensor.to(device) for key, tensor in src.tensors("rest").items()}
        shapes = {key: value.shape for key, value in network.named_parameters() if key not in rest}
        if name == "raw":
            mean, log_sd = src.tensors("mean"), src.tensors("log_sd")
        elif name == "sigma_aware":
            mean, log_sd = read_gaussians(src, shapes)
        else:
            raise CorruptBitstream(f"encoding '{name}' is unknown; legal: raw, sigma_aware")
        if {key: value.shape for key, value in mean.items()} != shapes:
            raise CorruptBitstream("the stored Gaussians are those of another architecture")
        return cls(
            {key: tensor.to(device) for key, tensor in mean.items()},
            {key: tensor.to(device) for key, tensor in log_sd.items()},
            rest,
            encoding=name,
        )
