"""`shared`: one weight sample for the whole batch, with the gradient of psi by hand.

Reparameterisation (Blundell et al. 2015): w = mu + exp(psi) eps, so that with g = d loss / d w
    d/d mu = g,        d/d psi = g (w - mu),
which is exact, and needs no graph through exp and the noise. The sample and the gradient of psi live in the same
memory: it is filled with eps, becomes w, after the backward pass w - mu, and then the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from methods.finetuning.descent import gradient_of
from methods.finetuning.flat import Flat, chunks
from methods.finetuning.intercept import Fallbacks


@torch.no_grad()
def perturb(noise: Tensor, mean: Tensor, log_sd: Tensor) -> None:
    """Turn standard normal `noise` into the sample mean + exp(log_sd) noise, in place; all flat (D,)."""
    for part, mu, psi in chunks(noise, mean, log_sd):
        part.mul_(psi.exp()).add_(mu)


@torch.no_grad()
def log_sd_gradient(sample: Flat, mean: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Turn the sample into the gradient of psi, g (w - mu), in place; returns it, flat (D,)."""
    sample.flat.sub_(mean)
    if gradients:
        torch._foreach_mul_(list(sample.views.values()), list(gradients))
    return sample.flat


class Shared:
    """`Estimator` for any network. mu, psi: flat with views by name; the generator is on their device."""

    def __init__(self, mu: Flat, psi: Flat, generator: torch.Generator) -> None:
        self._mu, self._psi, self._generator = mu, psi, generator
        self._sample = Flat.like(mu)
        self._leaves = {name: view.requires_grad_() for name, view in self._sample.views.items()}

    @torch.no_grad()
    def begin(self) -> None:
        self._sample.flat.normal_(generator=self._generator)
        perturb(self._sample.flat, self._mu.flat, self._psi.flat)

    def weights(self) -> Mapping[str, Tensor]:
        return self._leaves

    def leaves(self) -> Sequence[Tensor]:
        return list(self._leaves.values())

    def mean_gradients(self) -> list[Tensor]:
        return [gradient_of(leaf) for leaf in self._leaves.values()]

    def log_sd_gradient(self) -> Tensor:
        return log_sd_gradient(self._sample, self._mu.flat, self.mean_gradients())

    def fallbacks(self) -> Fallbacks:
        return Fallbacks()
