"""`exemplar`: an independent weight sample for every example (BayesAdapter, arXiv 2010.01979, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods.finetuning import per_example
from methods.finetuning.intercept import RuledWeight
from methods.mean_field.estimators.ruled import GaussianRule


class Exemplar(GaussianRule):
    """Linear, convolutional and normalisation layers; keeps batch x weights numbers until the backward pass."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        return per_example.linear(x, self._of(weight, x), self._of(bias, x))

    def conv(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: Any,
        groups: int,
    ) -> Any:
        return per_example.conv(function, x, self._of(weight, x), self._of(bias, x), settings, groups)

    def affine(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, channels_last: bool) -> Any:
        return per_example.affine(x, self._of(weight, x), self._of(bias, x), channels_last=channels_last)

    def _of(self, weight: Tensor | None, x: Tensor) -> Any:
        """One sample per example, (B, ...); a plain weight is repeated."""
        if weight is None:
            return None
        if not isinstance(weight, RuledWeight):
            return weight.expand(len(x), *weight.shape)
        gaussian = self.gaussian(weight)

        def draw() -> Tensor:
            noise = self.normal(len(x), *weight.shape, like=gaussian.mu)
            sample: Tensor = _Samples.apply(gaussian.mu, gaussian.psi, noise)
            return sample

        return self.once(weight.key, len(x), draw=draw)


class _Samples(torch.autograd.Function):
    """mu + exp(psi) eps for a batch of eps, in the memory of eps, which is also all that the backward pass keeps:
    d/d mu = sum_i g_i,  d/d psi = sum_i g_i (w_i - mu)."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, psi: Tensor, noise: Tensor) -> Tensor:
        noise.mul_(psi.exp()).add_(mu)
        ctx.mark_dirty(noise)
        ctx.save_for_backward(noise, mu)
        return noise

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        samples, mu = ctx.saved_tensors
        (g,) = grads
        return g.sum(0), (samples - mu).mul_(g).sum(0), None
