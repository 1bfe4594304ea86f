"""Which distinct values the fixed weights have, and a label per weight that says which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.compressed import symbol_dtype
from methods.finetuning.flat import chunks
from methods.probabilistic_weight_fixing.fixing import Fixing

_SIGMA_BITS = 1 << 32


@dataclass(frozen=True)
class Codebook:
    """K entries in rising order, all in use, and who has which. On one device.

    codes: (K,) integers, the value is code 2^-b. sigma: (K,) float32, or None. labels: (N,) uint8, int16 or int32, K
    for a weight that is free.
    """

    codes: Tensor
    sigma: Tensor | None
    labels: Tensor

    @classmethod
    def of_values(cls, weights: Fixing) -> Codebook:
        """One entry per distinct value."""
        codes, _ = value_counts(weights)
        low, span = _range(weights)
        table = torch.full((span + 1,), len(codes), dtype=symbol_dtype(len(codes)), device=codes.device)
        table[codes.long() - low] = torch.arange(len(codes), device=codes.device).to(table.dtype)
        labels = torch.empty(len(weights), dtype=table.dtype, device=codes.device)
        for (out,), places in zip(chunks(labels), _places(weights, low, span), strict=True):
            torch.index_select(table, 0, places, out=out)
        return cls(codes, None, labels)

    @classmethod
    def of_pairs(cls, weights: Fixing) -> Codebook:
        """One entry per distinct pair of value and sigma, which must not be negative."""
        parts = list(chunks(weights.code, weights.sigma, weights.fixed))
        keys = torch.cat([_keys(code, sigma)[fixed].unique() for code, sigma, fixed in parts]).unique()
        labels = torch.empty(len(weights), dtype=symbol_dtype(len(keys)), device=keys.device)
        for (code, sigma, fixed), (out,) in zip(parts, chunks(labels), strict=True):
            found = torch.searchsorted(keys, _keys(code, sigma), out_int32=True)
            out.copy_(found.masked_fill_(~fixed, len(keys)))
        codes = keys.div(_SIGMA_BITS, rounding_mode="floor")
        deviations = (keys - codes * _SIGMA_BITS).int().view(torch.float32)
        return cls(codes.to(weights.code.dtype), deviations, labels)

    def __len__(self) -> int:
        return len(self.codes)

    def counts(self) -> Tensor:
        """(K + 1,) int64, weights with each label."""
        counts = torch.zeros(len(self) + 1, dtype=torch.int64, device=self.labels.device)
        for (part,) in chunks(self.labels):
            counts += torch.bincount(part, minlength=len(self) + 1)
        return counts


def value_counts(weights: Fixing) -> tuple[Tensor, Tensor]:
    """Codes (K,) of the fixed weights, rising, in the dtype of `weights.code`, and how many have each (K,) int64."""
    low, span = _range(weights)
    counts = torch.zeros(span + 1, dtype=torch.int64, device=weights.mu.device)
    for places in _places(weights, low, span):
        counts += torch.bincount(places, minlength=span + 1)
    used = counts[:-1].nonzero().squeeze(1)
    return (used + low).to(weights.code.dtype), counts.index_select(0, used)


@torch.no_grad()
def pool_sigma(weights: Fixing) -> None:
    """One sigma per distinct value, in place: the root mean square of max(sigma, 0) over the fixed weights that have
    it. Summed on the CPU: on a GPU the last bits would depend on the order of its threads."""
    book = Codebook.of_values(weights)
    square = torch.zeros(len(book) + 1, dtype=torch.float64)
    for labels, sigma in chunks(book.labels, weights.sigma):
        variance = sigma.clamp(min=0).double().square_()
        square += torch.bincount(labels.cpu(), variance.cpu(), minlength=len(book) + 1)
    pooled = (square / book.counts().cpu().clamp(min=1)).sqrt_().float().to(weights.sigma.device)
    for labels, sigma, fixed in chunks(book.labels, weights.sigma, weights.fixed):
        sigma.copy_(torch.where(fixed, pooled.index_select(0, labels.int()), sigma))


def _range(weights: Fixing) -> tuple[int, int]:
    """Smallest code of any weight, and the length of the range of codes."""
    low, high = (int(end) for end in weights.code.aminmax())
    return low, high - low + 1


def _places(weights: Fixing, low: int, span: int) -> Iterator[Tensor]:
    """code - low, int32, chunk by chunk; `span` where a weight is free."""
    for code, fixed in chunks(weights.code, weights.fixed):
        yield code.to(torch.int32, copy=True).sub_(low).masked_fill_(~fixed, span)


def _keys(code: Tensor, sigma: Tensor) -> Tensor:
    """int64 (n,), one per pair, in their order: the bits of a float32 >= 0 rise with it."""
    return code.long() * _SIGMA_BITS + sigma.view(torch.int32).long()
