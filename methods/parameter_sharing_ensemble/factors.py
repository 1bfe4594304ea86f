"""The components' weights: W_c = (L_c R_c) * W elementwise, for every layer, with low-rank factors L_c and R_c.

W is a layer's weight as a matrix (O, J): rows are its first index, J counts all the others (I k k of a convolution).
L_c is (O, r), R_c is (r, J). Their entries start as independent N(m, v^2),
    m = sqrt(1/r),  v = sqrt((sqrt(r s^2 + 1) - 1) / r),
so that the entries of L_c R_c have mean r m^2 = 1 and variance r ((m^2 + v^2)^2 - m^4) = s^2
(BayesAdapter, arXiv 2010.01979).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from methods.finetuning.points import copy_named


def moments(rank: int, spread: float) -> tuple[float, float]:
    """(m, v): mean and standard deviation of the entries of L and R, for entries of L R of deviation `spread`."""
    # expm1 of half a log: sqrt(1 + x) - 1 without cancellation
    return math.sqrt(1 / rank), math.sqrt(math.expm1(math.log1p(rank * spread**2) / 2) / rank)


def rows(weight: Tensor) -> Tensor:
    """The weight as its matrix (O, J)."""
    return weight.reshape(len(weight), -1)


class Factors:
    """left: name -> (C, O, r). right: name -> (C, r, J). Names of the layers' weights."""

    def __init__(self, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
        self.left, self.right = dict(left), dict(right)

    @classmethod
    def deviates(cls, weights: Mapping[str, Tensor], components: int, rank: int, seed: int) -> Factors:
        """Independent standard normal entries for layers with these weights, of their dtype and on their device."""
        device = next(iter(weights.values())).device
        generator = torch.Generator(device).manual_seed(seed)

        def normal(weight: Tensor, *shape: int) -> Tensor:
            return torch.randn(components, *shape, dtype=weight.dtype, device=device, generator=generator)

        left = {name: normal(weight, len(weight), rank) for name, weight in weights.items()}
        right = {name: normal(weight, rank, rows(weight).shape[1]) for name, weight in weights.items()}
        return cls(left, right)

    @property
    def components(self) -> int:
        """C."""
        return len(next(iter(self.left.values())))

    @property
    def rank(self) -> int:
        """r."""
        return next(iter(self.left.values())).shape[-1]

    def tensors(self) -> list[Tensor]:
        """All of L, then all of R."""
        return [*self.left.values(), *self.right.values()]

    @torch.no_grad()
    def spread_to(self, spread: float) -> None:
        """Turn standard normal deviates into factors whose products have mean 1 and deviation `spread`. In place."""
        mean, deviation = moments(self.rank, spread)
        for tensor in self.tensors():
            tensor.mul_(deviation).add_(mean)

    def state_dict(self) -> dict[str, Any]:
        return {"left": dict(self.left), "right": dict(self.right)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy in place.

        Raises:
            ConfigError: the state is that of another network, selection, rank or number of components.
        """
        copy_named(self.left, state["left"])
        copy_named(self.right, state["right"])


@torch.no_grad()
def write_component(
    out: Mapping[str, Tensor], weights: Mapping[str, Tensor], factors: Factors, c: int, spread: float | None = None
) -> None:
    """Write W_c of every layer over `out`, whose tensors are contiguous and shaped as `weights`.

    spread: the factors are standard normal deviates, to be used as `spread_to` would make them.
    """
    for name, weight in weights.items():
        left, right = factors.left[name][c], factors.right[name][c]
        if spread is not None:
            mean, deviation = moments(factors.rank, spread)
            left, right = left * deviation + mean, right * deviation + mean
        torch.mm(left, right, out=out[name].view(len(weight), -1))
        out[name].mul_(weight)


@torch.no_grad()
def mean_factor(left: Tensor, right: Tensor) -> Tensor:
    """Mean over c of L_c R_c, (O, J), of one layer's factors."""
    components, outputs, _ = left.shape
    return left.transpose(0, 1).reshape(outputs, -1) @ right.reshape(-1, right.shape[-1]) / components


def products(left: Tensor, right: Tensor, elements: int) -> Iterator[tuple[slice, Tensor]]:
    """(components, their L_c R_c (c, O, J)) of one layer, at most about `elements` numbers at a time."""
    step = max(1, elements // (left.shape[1] * right.shape[-1]))
    for start in range(0, len(left), step):
        chosen = slice(start, start + step)
        yield chosen, torch.bmm(left[chosen], right[chosen])


@torch.no_grad()
def spread_of(factors: Factors) -> float:
    """How much components differ: the root mean square of L_c R_c - mean_c L_c R_c over weights and components."""
    total = count = 0.0
    for name, left in factors.left.items():
        right = factors.right[name]
        centre = mean_factor(left, right)
        for _, product in products(left, right, elements=1 << 22):
            total += float((product - centre).square_().sum(dtype=torch.float64))
        count += len(left) * centre.numel()
    return math.sqrt(total / count)
