"""The directions in which samples vary most, for draws whose entries are correlated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.hmc_rebasin.summary import columns, finite_samples


@dataclass(frozen=True)
class LowRank:
    """The best approximation B B' of the samples' covariance of rank r. Below 20 samples a summary shrinks variances,
    and this does not: single ones of B B' may be larger than sigma^2.

    factor: name -> (r, ...), the columns of B, largest first (their signs mean nothing). eigenvalues: of the whole
    covariance, (K,) float64, falling.
    """

    factor: Mapping[str, Tensor]
    eigenvalues: Tensor

    @property
    def explained(self) -> float:
        """Share of the total variance that B B' has."""
        rank = len(next(iter(self.factor.values())))
        total = float(self.eigenvalues.sum())
        return float(self.eigenvalues[:rank].sum()) / total if total > 0 else 0.0


@torch.no_grad()
def low_rank(samples: Mapping[str, Tensor], rank: int, left_out: Mapping[str, Tensor] | None = None) -> LowRank:
    """B = X' Q_r / sqrt(K - 1) from the K x K Gram matrix X X'/(K - 1) = Q L Q', X the centred samples (K, P).

    samples, left_out: as of `summarise`. The Gram matrix is summed in float64 over pieces of P, multiplied in the
    samples' dtype: K^2 P multiply-adds, never a decomposition of K x P.

    Raises:
        ValueError: the rank is not 1..K - 1 of the finite samples.
    """
    left_out = left_out or {}
    good = finite_samples(samples)
    index = good.nonzero().flatten()
    kept = len(index)
    if not 1 <= rank < kept:
        raise ValueError(f"rank {rank} of {kept} finite samples; legal: 1..{kept - 1}")
    gram = torch.zeros(kept, kept, dtype=torch.float64, device=good.device)
    for name, tensor in samples.items():
        for x in _centred(tensor, index, left_out.get(name)):
            gram += (x @ x.T).double()
    values, vectors = torch.linalg.eigh(gram / (kept - 1))
    top = vectors.flip(1)[:, :rank].T / (kept - 1) ** 0.5  # (r, K)
    factor = {}
    for name, tensor in samples.items():
        pieces = [top.to(x.dtype) @ x for x in _centred(tensor, index, left_out.get(name))]
        factor[name] = torch.cat(pieces, 1).view(rank, *tensor.shape[1:])
    return LowRank(factor, values.flip(0).clamp(min=0))


def residual(sigma: Tensor, factor: Tensor) -> Tensor:
    """What is left of the standard deviations beside B: sqrt(max(0, sigma^2 - diag(B B'))).

    sigma: any shape. factor: (r, ...) of it.
    """
    left = sigma.double().square()
    for row in factor:
        left -= row.double().square()
    return left.clamp_(min=0).sqrt_().to(sigma.dtype)


def _centred(samples: Tensor, index: Tensor, left_out: Tensor | None) -> Iterator[Tensor]:
    """Finite samples of a tensor minus their mean, in pieces (K, c), 0 where entries are left out."""
    dtype = torch.promote_types(samples.dtype, torch.float32)
    mask = None if left_out is None else left_out.to(samples.device).flatten()
    start, whole = 0, len(index) == len(samples)
    for chunk in columns(samples):
        values = (chunk if whole else chunk[index]).double()
        values -= values.mean(0)
        if mask is not None:
            values[:, mask[start : start + values.shape[1]]] = 0
        start += values.shape[1]
        yield values.to(dtype)
