"""SGD with momentum, Adam and AdamW, on torch's functional optimisers.

The same kernels and numbers as `torch.optim.SGD`, `Adam` and `AdamW` with `fused=True`. Their classes import the
compiler when the first one is built, which takes longer than training a small network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

MOMENTUM = 0.9
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Group:
    """Parameters that decay alike."""

    parameters: Sequence[Tensor]
    decay: float = 0.0


class Optimiser(Protocol):
    """What a training step needs of an optimiser; its state is part of checkpoints."""

    def step(self, lr: float, found_inf: Tensor | None = None) -> None:
        """Update every parameter that has a gradient, then drop the gradients. Does not wait for the device.

        found_inf: float32 (), on the parameters' device; where it is not 0 the step changes nothing.
        """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Sgd:
    """g = gradient + decay w;  v = m v + g;  w = w - lr (g + m v), or w - lr v without Nesterov's look-ahead.

    m: momentum. The decay is a coupled L2 penalty.
    """

    def __init__(self, groups: Sequence[Group], *, momentum: float = MOMENTUM, nesterov: bool = True) -> None:
        self._groups, self._momentum, self._nesterov = groups, momentum, nesterov
        self._velocity = [[torch.zeros_like(w) for w in group.parameters] for group in groups]

    @torch.no_grad()
    def step(self, lr: float, found_inf: Tensor | None = None) -> None:
        for group, velocity in zip(self._groups, self._velocity, strict=True):
            weights, gradients, chosen = _with_gradient(group)
            sgd(
                weights,
                gradients,
                [velocity[index] for index in chosen],
                fused=True,
                found_inf=found_inf,
                lr=lr,
                momentum=self._momentum,
                nesterov=self._nesterov,
                dampening=0.0,
                weight_decay=group.decay,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"velocity": self._velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _copy_into(self._velocity, state["velocity"])


class Adam:
    """Adam, betas 0.9 and 0.999 (Kingma and Ba 2015). A group's decay is an L2 term in the gradient, or `decoupled`:
    w = w - lr decay w before the step (AdamW, Loshchilov and Hutter 2019)."""

    def __init__(self, groups: Sequence[Group], *, eps: float = EPS, decoupled: bool = False) -> None:
        self._groups, self._eps, self._decoupled = groups, eps, decoupled
        self._mean = [[torch.zeros_like(w) for w in group.parameters] for group in groups]
        self._square = [[torch.zeros_like(w) for w in group.parameters] for group in groups]
        # One count per weight, on its device: a weight without a gradient in some step does not count that step.
        self._steps = [[torch.zeros((), device=w.device) for w in group.parameters] for group in groups]

    @torch.no_grad()
    def step(self, lr: float, found_inf: Tensor | None = None) -> None:
        for index, group in enumerate(self._groups):
            weights, gradients, chosen = _with_gradient(group)
            adam(
                weights,
                gradients,
                [self._mean[index][i] for i in chosen],
                [self._square[index][i] for i in chosen],
                [],
                [self._steps[index][i] for i in chosen],
                fused=True,
                found_inf=found_inf,
                decoupled_weight_decay=self._decoupled,
                lr=lr,
                beta1=BETA1,
                beta2=BETA2,
                weight_decay=group.decay,
                eps=self._eps,
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "square": self._square, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for own, name in ((self._mean, "mean"), (self._square, "square"), (self._steps, "steps")):
            _copy_into(own, state[name])


def clip(gradients: list[Tensor], limit: float) -> None:
    """Scale `gradients` in place to a global norm of at most `limit`, without waiting for the device."""
    if gradients:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (limit / norm.clamp(min=1e-30)).clamp(max=1.0))


def _with_gradient(group: Group) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """Weights that take part in this step, their gradients (taken off the weights) and their places in the group."""
    weights: list[Tensor] = []
    gradients: list[Tensor] = []
    chosen: list[int] = []
    for index, weight in enumerate(group.parameters):
        if weight.grad is not None:
            weights.append(weight)
            gradients.append(weight.grad)
            chosen.append(index)
            weight.grad = None
    return weights, gradients, chosen


def _copy_into(own: list[list[Tensor]], saved: list[list[Tensor]]) -> None:
    for mine, theirs in zip(own, saved, strict=True):
        for target, source in zip(mine, theirs, strict=True):
            target.copy_(source)
