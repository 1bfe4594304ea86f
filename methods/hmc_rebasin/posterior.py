"""Aligned samples as one Gaussian: drawing, and its bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchmark import BitReader, BitWriter, CorruptBitstream, Fact, Posterior, Weights, on_device_of
from methods.compressed import parameters_beside
from methods.finetuning.flat import Flat
from methods.hmc_rebasin.choices import Encoding
from methods.hmc_rebasin.encoding import Stored, named, read_stored, write_stored
from methods.hmc_rebasin.low_rank import residual
from methods.hmc_rebasin.repair import Repair


class CompactPosterior(Posterior):
    """N(mu, diag(sigma^2)) of the sampled parameters, or N(mu, B B' + residual) with the same variances; point values
    for the rest (other parameters, running statistics). float32 and exactly what its bytes hold.

    The mean network and the draws have running statistics of their own: activations of noisy weights vary more. A
    repair changes the mean network alone.
    """

    def __init__(
        self,
        stored: Stored,
        rest: Mapping[str, Tensor],
        device: torch.device,
        *,
        draw_statistics: Mapping[str, Tensor] | None = None,
        repair: Repair | None = None,
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """rest: float32 on `device`, with the statistics of the mean network. draw_statistics: in their place for
        draws."""
        self._stored, self._rest = stored, dict(rest)
        self._draw_statistics, self._repair = dict(draw_statistics or {}), repair
        self._facts = dict(facts or {})
        sigma, factor = stored.sigma(), stored.factor()
        self._mean = named(stored.mean(), stored.shapes, device)
        self._factor = factor.to(device)
        self._spread = (residual(sigma, factor) if stored.rank else sigma).to(device)

    @classmethod
    def of(
        cls,
        mu: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        rest: Mapping[str, Tensor],
        *,
        kept: Mapping[str, Tensor] | None = None,
        factor: Mapping[str, Tensor] | None = None,
        encoding: Encoding = "grid",
        facts: Mapping[str, Fact] | None = None,
    ) -> CompactPosterior:
        """Rounded at once, so that statistics and repairs that are measured next are those of what is stored.

        mu, sigma: the sampled parameters, by name. rest: all other parameters and all floating-point buffers. kept:
        name -> bool, False where an entry is 0 in the mean and in every draw (pruned, or left out of the summary);
        entries of `left_out` of a summary must be False. factor: name -> (r, ...), B of `low_rank`.

        Raises:
            ValueError, ConfigError: as `Stored.of`.
        """
        stored = Stored.of(mu, sigma, kept or {}, factor or {}, encoding)
        own = {name: tensor.detach().float().clone() for name, tensor in rest.items()}
        return cls(stored, own, next(iter(mu.values())).device, facts=facts)

    def with_statistics(self, of_mean: Mapping[str, Tensor], of_draws: Mapping[str, Tensor]) -> CompactPosterior:
        """The same with running statistics for the mean network and for draws; names that are missing stay."""
        made = copy.copy(self)
        made._rest = {**self._rest, **{name: tensor.float() for name, tensor in of_mean.items()}}
        made._draw_statistics = {name: tensor.float() for name, tensor in of_draws.items()}
        return made

    def with_repair(self, repair: Repair) -> CompactPosterior:
        """The same with a rescaled mean network."""
        made = copy.copy(self)
        made._repair = Repair(
            {name: tensor.float() for name, tensor in repair.gain.items()},
            {name: tensor.float() for name, tensor in repair.shift.items()},
        )
        return made

    def with_facts(self, facts: Mapping[str, Fact]) -> CompactPosterior:
        """The same with more facts."""
        made = copy.copy(self)
        made._facts = {**self._facts, **facts}
        return made

    @torch.no_grad()
    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        """`n` weight samples mu + B z + spread xi, all in the same memory: each overwrites the one before.

        The noise is drawn on the posterior's device by a generator that one 63-bit integer of `generator` seeds, z
        then xi in one call each per draw: draw k depends neither on n nor on how the samples are used.
        """
        seed = int(torch.randint(2**63 - 1, (1,), generator=generator))
        device = self._mean.flat.device
        noise = torch.Generator(device).manual_seed(seed)
        sample, z = Flat.like(self._mean), torch.empty(self._stored.rank, device=device)
        weights = {**self._rest, **self._draw_statistics, **sample.views}
        for _ in range(n):
            z.normal_(generator=noise)
            sample.flat.normal_(generator=noise)
            torch.addcmul(self._mean.flat, self._spread, sample.flat, out=sample.flat)
            if len(z):
                sample.flat.addmv_(self._factor.T, z)
            yield weights

    def mean(self) -> Weights:
        mean: dict[str, Tensor] = {**self._rest, **self._mean.views}
        if self._repair is None:
            return mean
        repaired = self._repair.applied(mean)
        if self._stored.kept is not None:  # a shift must not bring a pruned bias back
            kept = named(self._stored.kept, self._stored.shapes, self._mean.flat.device).views
            repaired |= {name: repaired[name].where(mask, 0) for name, mask in kept.items()}
        return repaired

    def facts(self) -> dict[str, Fact]:
        return dict(self._facts)

    def encode(self, out: BitWriter) -> None:
        """The rest, the statistics of draws and a repair as float32, then the Gaussian; nothing is lost.

        The names of the sampled tensors are not written: they are the parameters that are not in the rest.
        """
        out.codec = f"compact-{self._stored.encoding}"
        out.tensors("rest", self._rest)
        out.tensors("draw_statistics", self._draw_statistics)
        out.tensors("repair.gain", self._repair.gain if self._repair else {})
        out.tensors("repair.shift", self._repair.shift if self._repair else {})
        write_stored(out, self._stored)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> CompactPosterior:
        """The inverse of `encode`, on the network's device.

        Raises:
            CorruptBitstream: the bytes are damaged or of another architecture.
        """
        rest = on_device_of(network, src.tensors("rest"))
        statistics = on_device_of(network, src.tensors("draw_statistics"))
        shapes = parameters_beside(rest, network)
        if any(name not in rest or rest[name].shape != tensor.shape for name, tensor in statistics.items()):
            raise CorruptBitstream("the stored statistics of draws are those of another architecture")
        repair = _read_repair(src, shapes, network)
        device = next(network.parameters()).device
        return cls(read_stored(src, shapes), rest, device, draw_statistics=statistics, repair=repair)


def _read_repair(src: BitReader, shapes: Mapping[str, torch.Size], network: nn.Module) -> Repair | None:
    gain, shift = (on_device_of(network, src.tensors(f"repair.{name}")) for name in ("gain", "shift"))
    for name, tensor in [*gain.items(), *shift.items()]:
        if name not in shapes or tensor.shape != shapes[name][:1]:
            raise CorruptBitstream("the stored repair is that of another architecture")
    if not all(bool(tensor.isfinite().all()) for tensor in [*gain.values(), *shift.values()]):
        raise CorruptBitstream("the stored repair holds numbers that are not finite")
    return Repair(gain, shift) if gain else None
