"""Which component a training example sees: one for the whole step, or one of its own for every example.

Both draw components uniformly, and in expectation both give the gradient of the components' mean loss. With one
component per step any network works and a step costs what it costs without an ensemble; L_c and R_c of all other
components then get the prior's gradient only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from methods.finetuning import per_example
from methods.finetuning.descent import gradient_of
from methods.finetuning.intercept import Fallbacks, Rule, RuledWeight
from methods.parameter_sharing_ensemble.factors import Factors, rows, write_component


class Assignment(ABC):
    """The components of one step, in the weights of its forward passes.

    weights: the shared W by name, contiguous leaves. factors: leaves too. The generator is on the CPU, so that nothing
    waits for the device and the components are the same on every device.
    """

    def __init__(self, weights: Mapping[str, Tensor], factors: Factors, generator: torch.Generator) -> None:
        self._shared, self._factors, self._generator = weights, factors, generator

    @abstractmethod
    def begin(self) -> None:
        """A new step."""

    @abstractmethod
    def see(self, examples: int) -> None:
        """Before a forward pass with this many examples."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """What stands in the place of W in a forward pass."""

    @abstractmethod
    def leaves(self) -> Sequence[Tensor]:
        """Where `backward` leaves gradients."""

    @abstractmethod
    def pull_back(self) -> None:
        """After the backward passes: the data's gradients are to be at W, L and R."""

    def fallbacks(self) -> Fallbacks:
        """Functions of torch that got one component for the whole pass for lack of a formula."""
        return Fallbacks()

    def _draw(self, count: int) -> Tensor:
        return torch.randint(self._factors.components, (count,), generator=self._generator)


class PerBatch(Assignment):
    """W_c itself is the leaf; with g = d loss / d W_c and P = L_c R_c the gradients are, by hand,
    d W = g * P,  d L_c = (g * W) R_c^T,  d R_c = L_c^T (g * W)."""

    def __init__(self, weights: Mapping[str, Tensor], factors: Factors, generator: torch.Generator) -> None:
        super().__init__(weights, factors, generator)
        self._leaves = {name: torch.zeros_like(weight).requires_grad_() for name, weight in weights.items()}
        self._component = 0

    def begin(self) -> None:
        self._component = int(self._draw(1))
        write_component(self._leaves, self._shared, self._factors, self._component)

    def see(self, examples: int) -> None:
        """All of them see the component of the step."""

    def weights(self) -> Mapping[str, Tensor]:
        return self._leaves

    def leaves(self) -> Sequence[Tensor]:
        return list(self._leaves.values())

    @torch.no_grad()
    def pull_back(self) -> None:
        c = self._component
        for name, leaf in self._leaves.items():
            weight, gradient = self._shared[name], rows(gradient_of(leaf))
            left, right = self._factors.left[name], self._factors.right[name]
            weight.grad = torch.mm(left[c], right[c]).mul_(gradient).view_as(weight)
            by_product = gradient * rows(weight)
            gradient_of(left)[c] = by_product @ right[c].T
            gradient_of(right)[c] = left[c].T @ by_product


class PerExample(Assignment):
    """Linear and convolutional layers where every example has its own component."""

    def __init__(self, weights: Mapping[str, Tensor], factors: Factors, generator: torch.Generator) -> None:
        super().__init__(weights, factors, generator)
        self._rule = ComponentRule(weights, factors)
        self._weights = {name: RuledWeight.of(name, weight, self._rule) for name, weight in weights.items()}

    def begin(self) -> None:
        self._rule.common = self._draw(1)

    def see(self, examples: int) -> None:
        self._rule.chosen = self._draw(examples)

    def weights(self) -> Mapping[str, Tensor]:
        return self._weights

    def leaves(self) -> Sequence[Tensor]:
        return [*self._shared.values(), *self._factors.tensors()]

    def pull_back(self) -> None:
        """Autograd has put them there."""

    def fallbacks(self) -> Fallbacks:
        return self._rule.fallbacks


class ComponentRule(Rule):
    """Example i of a pass uses component `chosen[i]` (B,); `whole` is component `common` (1,)."""

    def __init__(self, weights: Mapping[str, Tensor], factors: Factors) -> None:
        super().__init__()
        self._shared, self._factors = weights, factors
        self.chosen = self.common = torch.zeros(1, dtype=torch.int64)

    def whole(self, weight: RuledWeight) -> Tensor:
        left, right = self._of(weight.key, self.common)
        return _multiplied(self._shared[weight.key], left, right)[0]

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        """Rank one: L_c * (W (R_c * x)), where no example needs a matrix of its own."""
        if not isinstance(weight, RuledWeight) or not self._knows(x):
            return NotImplemented
        if self._factors.rank > 1:
            return self._with_own(per_example.linear, x, weight, bias)
        between = (1,) * (x.dim() - 2)
        left, right = (factor.reshape(len(x), *between, -1) for factor in self._of(weight.key, self.chosen))
        product = functional.linear(x * right, self._shared[weight.key])
        out = (product * left).to(product.dtype)
        return out if bias is None else out + bias.to(out.dtype)

    def conv(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: Any,
        groups: int,
    ) -> Any:
        if not isinstance(weight, RuledWeight) or not self._knows(x):
            return NotImplemented

        def convolve(x: Tensor, filters: Tensor, biases: Tensor | None) -> Tensor:
            return per_example.conv(function, x, filters, biases, settings, groups)

        return self._with_own(convolve, x, weight, bias)

    def _with_own(
        self,
        layer: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        x: Tensor,
        weight: RuledWeight,
        bias: Tensor | None,
    ) -> Any:
        """`layer` of x, weights (B, ...) and biases (B, O). The weights of the examples, batch x weights numbers, are
        made anew in the backward pass: only one layer's are in memory at a time."""

        def run(x: Tensor, shared: Tensor, left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
            biases = None if bias is None else bias.expand(len(x), -1)
            return layer(x, _multiplied(shared, left, right), biases)

        factors = self._of(weight.key, self.chosen)
        return checkpoint(
            run, x, self._shared[weight.key], *factors, bias, use_reentrant=False, preserve_rng_state=False
        )

    def _knows(self, x: Tensor) -> bool:
        """Whether the leading index of x is that of the examples (windows of an image are more)."""
        return x.dim() >= 2 and len(x) == len(self.chosen)

    def _of(self, name: str, components: Tensor) -> tuple[Tensor, Tensor]:
        """L (b, O, r) and R (b, r, J) of these components."""
        left, right = self._factors.left[name], self._factors.right[name]
        index = components.to(left.device, non_blocking=True)
        return left.index_select(0, index), right.index_select(0, index)


def _multiplied(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(b, *weight.shape): W times every L R."""
    with torch.autocast(weight.device.type, enabled=False):  # products of factors are weights: full precision
        return weight * torch.bmm(left, right).view(len(left), *weight.shape)
