"""`local`: noise on the outputs of layers (the local reparameterisation, Kingma et al., NeurIPS 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.finetuning.intercept import RuledWeight
from methods.mean_field.estimators.ruled import GaussianRule

SMALLEST_VARIANCE = 1e-16


class Local(GaussianRule):
    """out = mu x + z sqrt(sigma^2 x^2) in linear and convolutional layers, z independent for every output.

    For a convolution, or a linear layer over tokens, the outputs of one example share weights and ought to be
    correlated; here they are not. It is the exact law for a linear layer on (B, I) only.
    """

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        mean = functional.linear(x, self.mean(weight), self.mean(bias))
        variance = functional.linear(x.square(), self._variance(weight), self._variance(bias))
        return self._noisy(mean, variance)

    def conv(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: Any,
        groups: int,
    ) -> Any:
        mean = function(x, self.mean(weight), self.mean(bias), *settings, groups)
        variance = function(x.square(), self._variance(weight), self._variance(bias), *settings, groups)
        return self._noisy(mean, variance)

    def _noisy(self, mean: Tensor, variance: Tensor) -> Tensor:
        half = variance.dtype in (torch.float16, torch.bfloat16)  # the smallest variance is 0 in fp16
        deviation = (variance.float() if half else variance).clamp(min=SMALLEST_VARIANCE).sqrt()
        return mean + deviation * self.normal(*mean.shape, like=deviation)

    def _variance(self, weight: Tensor | None) -> Any:
        if not isinstance(weight, RuledWeight):
            return None if weight is None else torch.zeros_like(weight)
        return self.gaussian(weight).psi.mul(2).exp()
