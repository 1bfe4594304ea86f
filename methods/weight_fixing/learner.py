"""What a step trains: weights that are not fixed yet, and the rest, by Adam, pulled to the last iteration's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.finetuning.descent import PointDescent, gradient_of
from methods.finetuning.step import Learner
from methods.fixed_weights.state import FixingState
from methods.optimisers import Adam, Group, clip
from methods.weight_fixing.attraction import attraction
from methods.weight_fixing.config import WfnConfig

LEAST_PULL = 1e-12
"""Divisor where all free weights are on values already: the pull has no gradient then."""


class WfnLearner(Learner):
    """Loss: cross-entropy + alpha (cross-entropy / L) L, the bracket a constant, L the mean `attraction` of the free
    weights. The loss that steps return is the cross-entropy. Fixed weights never move."""

    advice = "Try a third of lr."

    def __init__(self, network: nn.Module, state: FixingState, config: WfnConfig, learned: Tensor) -> None:
        """learned: (N,) bool, weights that are trained at all."""
        super().__init__(network, state.points)
        self.state, self._config, self._learned = state, config, learned
        self._leaf = state.weights.mu.detach().requires_grad_()  # the same memory: what clustering fixes, it sees
        self.begin_iteration(torch.empty(0))

    def begin_iteration(self, values: Tensor) -> None:
        """A new state of the optimisers, so that nothing is left of weights that have been fixed.

        values: (K,), what free weights are pulled to; none at K = 0.
        """
        self._values = values.to(self._leaf)
        self._mask = self._learned & ~self.state.weights.fixed
        self._free = self._mask.nonzero().squeeze(1)
        self._adam = Adam([Group([self._leaf])])
        trained = list(self.points.trained.values())
        self._points = PointDescent(self.points, Adam([Group(trained)]), lambda t: self._config.lr, set(), 0.0)

    def begin(self) -> None:
        self._cross_entropy = torch.zeros((), device=self._leaf.device)
        self._examples = 0

    def weights(self) -> Mapping[str, Tensor]:
        return {**self.points.tensors(), **self.state.shaped(self._leaf)}

    def leaves(self) -> Sequence[Tensor]:
        return [self._leaf, *self._points.leaves()]

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        found = super().loss(inputs, labels)
        self._cross_entropy += found.detach() * len(labels)
        self._examples += len(labels)
        return found

    @torch.no_grad()
    def update(self, t: int, found_inf: Tensor) -> None:
        gradient = gradient_of(self._leaf)
        if self._config.alpha > 0 and len(self._values) and len(self._free):
            pull, slope = attraction(self._leaf.index_select(0, self._free), self._values)
            share = self._config.alpha * self._cross_entropy / self._examples / pull.clamp(min=LEAST_PULL)
            gradient.index_add_(0, self._free, slope.mul_(share))
        gradient *= self._mask
        if self._config.clip_norm is not None:
            clip([leaf.grad for leaf in self.leaves() if leaf.grad is not None], self._config.clip_norm)
        self._adam.step(self._config.lr, found_inf)
        self._points.update(t, found_inf)

    def release(self) -> None:
        """Give back the memory of gradients and optimisers, once training is over; no step can follow."""
        self._points.release()
        del self._leaf, self._adam, self._points, self._free, self._mask

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.state_dict(),
            "values": self._values,
            "adam": self._adam.state_dict(),
            "points": self._points.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state.load_state_dict(state["state"])
        self.begin_iteration(state["values"])
        self._adam.load_state_dict(state["adam"])
        self._points.load_state_dict(state["points"])
