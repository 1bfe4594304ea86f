"""What a step of the ensemble trains: shared weights, factors, and everything else, with the prior added by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.finetuning.descent import PointDescent, Rate
from methods.finetuning.points import Points
from methods.finetuning.step import Learner
from methods.optimisers import Optimiser, clip
from methods.parameter_sharing_ensemble.assignment import Assignment
from methods.parameter_sharing_ensemble.factors import Factors
from methods.parameter_sharing_ensemble.prior import add_prior_gradients


class EnsembleLearner(Learner):
    """W and the rest by `point_descent`, L and R by `factor_optimiser`, which has no weight decay.

    names: of the layers' weights W among the trained `points`; `point_descent` must not decay them. lam: lambda of
    their L2 term. clip_norm: largest global norm of the data's gradient of what the components share.
    """

    def __init__(
        self,
        network: nn.Module,
        points: Points,
        names: Sequence[str],
        factors: Factors,
        assignment: Assignment,
        point_descent: PointDescent,
        factor_optimiser: Optimiser,
        factor_rate: Rate,
        lam: float,
        *,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(network, points)
        self.factors, self.assignment = factors, assignment
        self._shared = {name: points.trained[name] for name in names}
        self._point_descent, self._factor_optimiser, self._factor_rate = point_descent, factor_optimiser, factor_rate
        self._lam, self._clip_norm = lam, clip_norm

    def begin(self) -> None:
        self.assignment.begin()

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        self.assignment.see(len(inputs))
        return super().loss(inputs, labels)

    def weights(self) -> Mapping[str, Tensor]:
        return {**self.points.tensors(), **self.assignment.weights()}

    def leaves(self) -> Sequence[Tensor]:
        rest = [tensor for name, tensor in self.points.trained.items() if name not in self._shared]
        return [*self.assignment.leaves(), *rest]

    @torch.no_grad()
    def update(self, t: int, found_inf: Tensor) -> None:
        self.assignment.pull_back()
        if self._clip_norm is not None:
            clip([leaf.grad for leaf in self._point_descent.leaves() if leaf.grad is not None], self._clip_norm)
        add_prior_gradients(self._shared, self.factors, self._lam)
        self._factor_optimiser.step(self._factor_rate(t), found_inf)
        self._point_descent.update(t, found_inf)

    def release(self) -> None:
        """The tensors as plain numbers again, once training is over; no step can follow."""
        self._point_descent.release()
        for tensor in self.factors.tensors():
            tensor.requires_grad_(False)
        del self.assignment, self._point_descent, self._factor_optimiser

    def state_dict(self) -> dict[str, Any]:
        return {
            "tensors": self.points.state_dict(),
            "factors": self.factors.state_dict(),
            "points": self._point_descent.state_dict(),
            "factor_optimiser": self._factor_optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.points.load_state_dict(state["tensors"])
        self.factors.load_state_dict(state["factors"])
        self._point_descent.load_state_dict(state["points"])
        self._factor_optimiser.load_state_dict(state["factor_optimiser"])
