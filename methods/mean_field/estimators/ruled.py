"""Estimators whose noise differs from example to example: leaves are mu and psi themselves, layers follow a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.finetuning.descent import gradient_of
from methods.finetuning.flat import Flat
from methods.finetuning.intercept import Fallbacks, Rule, RuledWeight


@dataclass(frozen=True)
class Gaussian:
    """mu and psi of one tensor, leaves of autograd."""

    mu: Tensor
    psi: Tensor


class GaussianRule(Rule):
    """Knows the Gaussian of every ruled weight; `whole` is one sample mu + exp(psi) eps per step."""

    def __init__(self, gaussians: Mapping[str, Gaussian], generator: torch.Generator) -> None:
        super().__init__()
        self._gaussians, self._generator = gaussians, generator
        self._deltas: dict[str, Tensor] = {}
        self._of_pass: dict[tuple[Any, ...], Tensor] = {}

    def begin(self) -> None:
        """New noise for `delta` and `whole`: a step begins."""
        self._deltas.clear()
        self.begin_pass()

    def begin_pass(self) -> None:
        """A forward pass begins, with examples of its own."""
        self._of_pass.clear()

    def once(self, *what: Any, draw: Callable[[], Tensor]) -> Tensor:
        """What `draw` gave for `what` in this pass: the uses of a tied weight see the same noise."""
        if what not in self._of_pass:
            self._of_pass[what] = draw()
        return self._of_pass[what]

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        """Standard normal deviates from the step's generator."""
        return torch.randn(shape, dtype=like.dtype, device=like.device, generator=self._generator)

    def gaussian(self, weight: RuledWeight) -> Gaussian:
        """mu and psi behind a weight of the network."""
        return self._gaussians[weight.key]

    def mean(self, weight: Tensor | None) -> Any:
        """mu of a ruled weight; a plain weight, or None, itself."""
        return self.gaussian(weight).mu if isinstance(weight, RuledWeight) else weight

    def delta(self, weight: Tensor | None) -> Any:
        """exp(psi) eps of the weight's shape, one eps per step, differentiable in psi; zeros for a plain weight."""
        if not isinstance(weight, RuledWeight):
            return None if weight is None else torch.zeros_like(weight)
        if weight.key not in self._deltas:
            self._deltas[weight.key] = self.normal(*weight.shape, like=self.gaussian(weight).mu)
        return self.gaussian(weight).psi.exp() * self._deltas[weight.key]

    def whole(self, weight: RuledWeight) -> Tensor:
        sample: Tensor = self.gaussian(weight).mu + self.delta(weight)
        return sample


class Ruled:
    """`Estimator` that replaces the Bayesian parameters by ruled ones."""

    def __init__(self, mu: Flat, psi: Flat, rule: Callable[[Mapping[str, Gaussian]], GaussianRule]) -> None:
        self._psi_gradient = torch.zeros_like(psi.flat)
        self._gaussians = {
            name: Gaussian(view.detach().requires_grad_(), psi.views[name].detach().requires_grad_())
            for name, view in mu.views.items()
        }
        self._pieces = self._psi_gradient.split([psi.numel() for psi in psi.views.values()])
        self.rule = rule(self._gaussians)
        self._weights = {name: RuledWeight.of(name, view, self.rule) for name, view in mu.views.items()}

    def begin(self) -> None:
        self.rule.begin()
        # Gradients of psi accumulate in one piece of memory, from where one optimiser step reads them.
        self._psi_gradient.zero_()
        for gaussian, piece in zip(self._gaussians.values(), self._pieces, strict=True):
            gaussian.psi.grad = piece.view_as(gaussian.psi)

    def weights(self) -> Mapping[str, Tensor]:
        self.rule.begin_pass()
        return self._weights

    def leaves(self) -> Sequence[Tensor]:
        return [leaf for gaussian in self._gaussians.values() for leaf in (gaussian.mu, gaussian.psi)]

    def mean_gradients(self) -> list[Tensor]:
        return [gradient_of(gaussian.mu) for gaussian in self._gaussians.values()]

    def log_sd_gradient(self) -> Tensor:
        return self._psi_gradient

    def fallbacks(self) -> Fallbacks:
        return self.rule.fallbacks
