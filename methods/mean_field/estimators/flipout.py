"""`flipout`: one weight perturbation for the batch, with random signs per example (Wen et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.finetuning.intercept import RuledWeight
from methods.mean_field.estimators.ruled import GaussianRule


class Flipout(GaussianRule):
    """out_i = mu x_i + s_out_i (delta (s_in_i x_i)) in linear and convolutional layers; a bias's noise takes s_out."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        between = (1,) * (x.dim() - 2)
        signs_in = self._signs("in", weight, bias, (len(x), *between, x.shape[-1]), x)
        signs_out = self._signs("out", weight, bias, (len(x), *between, weight.shape[0]), x)
        noise = functional.linear(x * signs_in, self.delta(weight), self.delta(bias))
        return functional.linear(x, self.mean(weight), self.mean(bias)) + signs_out * noise

    def conv(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: Any,
        groups: int,
    ) -> Any:
        space = (1,) * (x.dim() - 2)
        signs_in = self._signs("in", weight, bias, (*x.shape[:2], *space), x)
        signs_out = self._signs("out", weight, bias, (len(x), weight.shape[0], *space), x)
        noise = function(x * signs_in, self.delta(weight), self.delta(bias), *settings, groups)
        out = function(x, self.mean(weight), self.mean(bias), *settings, groups)
        return out + signs_out * noise

    def _signs(self, side: str, weight: Tensor, bias: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Random signs of a layer's inputs or outputs, the same in every use of its weight in this pass."""
        ruled = weight if isinstance(weight, RuledWeight) else bias
        assert isinstance(ruled, RuledWeight)  # or the layer would not have come here

        def draw() -> Tensor:
            bits = torch.randint(0, 2, shape, dtype=like.dtype, device=like.device, generator=self._generator)
            return bits.mul_(2).sub_(1)

        return self.once(side, ruled.key, shape, draw=draw)
