"""Which distinct values the fixed weights have, and a label per weight that says which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.compressed import symbol_dtype
from methods.finetuning.flat import CHUNK, chunks
from methods.fixed_weights.fixing import Fixing
from methods.fixed_weights.grid import SMALL_TABLE

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
        dtype, device = symbol_dtype(len(codes)), codes.device
        labels = torch.empty(len(weights), dtype=dtype, device=device)
        if not _tabled(weights, span):
            for code, fixed, out in chunks(weights.code, weights.fixed, labels):
                out.copy_(torch.searchsorted(codes, code, out_int32=True).masked_fill_(~fixed, len(codes)))
            return cls(codes, None, labels)
        table = torch.full((span + 1,), len(codes), dtype=dtype, device=device)
        table[codes.long() - low] = torch.arange(len(codes), device=device).to(dtype)
        for (out,), places in zip(chunks(labels), _places(weights, low, span), strict=True):
            torch.index_select(table, 0, places, out=out)
        return cls(codes, None, labels)

    @classmethod
    def of_pairs(cls, weights: Fixing) -> Codebook:
        """One entry per distinct pair of value and sigma, which must not be negative."""
        parts = list(chunks(weights.code, weights.deviations, weights.fixed))
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
    if not _tabled(weights, span):
        found = [code[fixed].unique(return_counts=True) for code, fixed in chunks(weights.code, weights.fixed)]
        codes, place = torch.cat([part for part, _ in found]).unique(return_inverse=True)
        counts = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        return codes, counts.index_add_(0, place, torch.cat([count for _, count in found]))
    counts = torch.zeros(span + 1, dtype=torch.int64, device=weights.mu.device)
    for places in _places(weights, low, span):
        counts += torch.bincount(places, minlength=span + 1)
    used = counts[:-1].nonzero().squeeze(1)
    return (used + low).to(weights.code.dtype), counts.index_select(0, used)


def _range(weights: Fixing) -> tuple[int, int]:
    """Smallest code of any weight, and the length of the range of codes."""
    low, high = (int(end) for end in weights.code.aminmax())
    return low, high - low + 1


def _tabled(weights: Fixing, span: int) -> bool:
    """Whether a table over the range costs no more than a pass over a chunk; codes of large weights are far apart."""
    return span <= max(SMALL_TABLE, min(len(weights), CHUNK))


def _places(weights: Fixing, low: int, span: int) -> Iterator[Tensor]:
    """code - low, int32, chunk by chunk; `span` where a weight is free."""
    for code, fixed in chunks(weights.code, weights.fixed):
        yield code.to(torch.int32, copy=True).sub_(low).masked_fill_(~fixed, span)


def _keys(code: Tensor, sigma: Tensor) -> Tensor:
    """int64 (n,), one per pair, in their order: the bits of a float32 >= 0 rise with it."""
    return code.long() * _SIGMA_BITS + sigma.view(torch.int32).long()
