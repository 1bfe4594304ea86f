"""One standard deviation per value, so that a codebook of pairs is as short as one of values."""

from __future__ import annotations

import torch

from methods.finetuning.flat import chunks
from methods.fixed_weights.codebook import Codebook
from methods.fixed_weights.fixing import Fixing


@torch.no_grad()
def pool_sigma(weights: Fixing) -> None:
    """One sigma per distinct value, in place: the root mean square of max(sigma, 0) over the fixed weights that have
    it. Summed on the CPU: on a GPU the last bits would depend on the order of its threads."""
    book, own = Codebook.of_values(weights), weights.deviations
    square = torch.zeros(len(book) + 1, dtype=torch.float64)
    for labels, sigma in chunks(book.labels, own):
        variance = sigma.clamp(min=0).double().square_()
        square += torch.bincount(labels.cpu(), variance.cpu(), minlength=len(book) + 1)
    pooled = (square / book.counts().cpu().clamp(min=1)).sqrt_().float().to(own.device)
    for labels, sigma, fixed in chunks(book.labels, own, weights.fixed):
        sigma.copy_(torch.where(fixed, pooled.index_select(0, labels.int()), sigma))
