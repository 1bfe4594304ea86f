"""`local`: noise on the outputs of layers (the local reparameterisation, Kingma et al., NeurIPS 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.finetuning.intercept import RuledWeight
from methods.finetuning.points import floating
from methods.mean_field.estimators.ruled import GaussianRule

SMALLEST_VARIANCE = 1e-16


class Local(GaussianRule):
    """out = mu x + z sqrt(sigma^2 x^2) in linear and convolutional layers, z independent for every output.

    For a convolution, or a linear layer over tokens, the outputs of one example share weights and ought to be
    correlated; here they are not. It is the exact law for a linear layer on (B, I) only.
    """

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        mean = functional.linear(x, self.mean(weight), self.mean(bias))
        return self._noisy(mean, functional.linear, x, weight, bias)

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
        return self._noisy(mean, lambda x, w, b: function(x, w, b, *settings, groups), x, weight, bias)

    def _noisy(
        self, mean: Tensor, layer: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # in fp16 sigma^2 becomes 0 below sigma 2e-4
            variance = layer(floating(x).square(), self._variance(weight), self._variance(bias))
        deviation = variance.clamp(min=SMALLEST_VARIANCE).sqrt()
        return mean + deviation * self.normal(*mean.shape, like=deviation)

    def _variance(self, weight: Tensor | None) -> Any:
        if not isinstance(weight, RuledWeight):
            return None if weight is None else torch.zeros_like(weight)
        return self.gaussian(weight).psi.mul(2).exp()
