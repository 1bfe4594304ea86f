"""Descent on point-valued tensors: the optimiser that the base run suggests, its rate, and the L2 term by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from methods.optimisers import Adam, Group, Optimiser, Sgd, clip

Rate = Callable[[int], float]
"""Step t = 0 .. T-1 -> learning rate."""


@dataclass(frozen=True)
class Descent:
    """An optimiser without weight decay, and its learning rate by step."""

    optimiser: Optimiser
    rate: Rate


class Trainable(Protocol):
    """What has tensors to descend on, by name: the `Points` of a network, copies of some of its weights."""

    trained: dict[str, Tensor]


def optimiser_for(kind: Literal["sgd", "adam"], parameters: Sequence[Tensor], *, nesterov: bool = True) -> Optimiser:
    """Without weight decay: the gradient of the prior is added by hand, once."""
    if kind == "adam":
        return Adam([Group(parameters)])
    return Sgd([Group(parameters)], nesterov=nesterov)


class PointDescent:
    """The trained tensors of `points`. decaying: names with an L2 term lam/2 ||w||^2; the others have none.
    clip_norm: largest global norm of the data's gradient, None: any."""

    def __init__(
        self,
        points: Trainable,
        optimiser: Optimiser,
        rate: Rate,
        decaying: set[str],
        lam: float,
        *,
        clip_norm: float | None = None,
    ) -> None:
        self._trained = {name: tensor.requires_grad_() for name, tensor in points.trained.items()}
        self._optimiser, self._rate, self._lam, self._clip_norm = optimiser, rate, lam, clip_norm
        self._decaying = [tensor for name, tensor in self._trained.items() if name in decaying]

    def leaves(self) -> list[Tensor]:
        """Where gradients arrive."""
        return list(self._trained.values())

    @torch.no_grad()
    def update(self, t: int, found_inf: Tensor) -> None:
        """See `Learner.update`."""
        if self._clip_norm is not None:
            clip([leaf.grad for leaf in self.leaves() if leaf.grad is not None], self._clip_norm)
        if self._decaying:
            torch._foreach_add_([gradient_of(tensor) for tensor in self._decaying], self._decaying, alpha=self._lam)
        self._optimiser.step(self._rate(t), found_inf)

    def release(self) -> None:
        """The tensors as plain numbers again, once training is over."""
        for tensor in self._trained.values():
            tensor.requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        return {"optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._optimiser.load_state_dict(state["optimiser"])


def gradient_of(leaf: Tensor) -> Tensor:
    """The leaf's gradient; zeros where this batch did not use it."""
    if leaf.grad is None:
        leaf.grad = torch.zeros_like(leaf)
    return leaf.grad
