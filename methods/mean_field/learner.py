"""What a step of `mean_field` trains: means and log deviations, with the prior's gradients added by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.finetuning.descent import Descent, PointDescent, Rate
from methods.finetuning.step import Learner
from methods.mean_field.estimators.estimator import Estimator
from methods.mean_field.prior import Prior, log_sd_limits
from methods.mean_field.state import MeanFieldState
from methods.optimisers import clip


class MeanFieldLearner(Learner):
    """Gaussians by `estimator`, points by `point_descent`.

    log_sd_descent: None keeps psi where it is. clamp: keep psi within `log_sd_limits`. clip_norm: largest global norm
    of the data's gradient of mu and of the points together. extra_decay: an L2 coefficient on mu beside the prior's
    (see the preset `demo`). ramp: factor on the KL term by step.
    """

    advice = "Try a third of lr_mu, and half of travel."

    def __init__(
        self,
        network: nn.Module,
        state: MeanFieldState,
        prior: Prior,
        estimator: Estimator,
        point_descent: PointDescent,
        mean_descent: Descent,
        log_sd_descent: Descent | None,
        *,
        clamp: bool = True,
        clip_norm: float | None = None,
        extra_decay: float = 0.0,
        ramp: Rate = lambda t: 1.0,
    ) -> None:
        super().__init__(network, state.points)
        self.state, self.prior, self.estimator = state, prior, estimator
        self._point_descent, self._mean_descent, self._log_sd_descent = point_descent, mean_descent, log_sd_descent
        self._clamp, self._clip_norm, self._extra_decay, self._ramp = clamp, clip_norm, extra_decay, ramp

    def begin(self) -> None:
        self.estimator.begin()

    def weights(self) -> Mapping[str, Tensor]:
        return {**self.points.tensors(), **self.estimator.weights()}

    def leaves(self) -> Sequence[Tensor]:
        return [*self.estimator.leaves(), *self._point_descent.leaves()]

    @torch.no_grad()
    def update(self, t: int, found_inf: Tensor) -> None:
        gradients = self.estimator.mean_gradients()
        if self._log_sd_descent is not None:
            psi = self.state.psi.flat
            psi.grad = self.estimator.log_sd_gradient()
            self.prior.add_log_sd_gradients(psi.grad, self.state.psi, self._ramp(t))
            self._log_sd_descent.optimiser.step(self._log_sd_descent.rate(t), found_inf)
            if self._clamp:
                psi.clamp_(*log_sd_limits(self.prior))
        if self._clip_norm is not None:
            points = [leaf.grad for leaf in self._point_descent.leaves() if leaf.grad is not None]
            clip([*gradients, *points], self._clip_norm)
        self.prior.add_mean_gradient(gradients, self.state.mu.views, self._ramp(t))
        means = list(self.state.mu.views.values())
        if self._extra_decay:
            torch._foreach_add_(gradients, means, alpha=self._extra_decay)
        for mean, gradient in zip(means, gradients, strict=True):
            mean.grad = gradient
        self._mean_descent.optimiser.step(self._mean_descent.rate(t), found_inf)
        self._point_descent.update(t, found_inf)

    def release(self) -> None:
        """Give back the memory of optimisers, noise and gradients, once training is over; no step can follow."""
        self._point_descent.release()
        del self.estimator, self._point_descent, self._mean_descent, self._log_sd_descent

    def state_dict(self) -> dict[str, Any]:
        psi = self._log_sd_descent
        return {
            "tensors": self.state.state_dict(),
            "points": self._point_descent.state_dict(),
            "means": self._mean_descent.optimiser.state_dict(),
            "log_sds": None if psi is None else psi.optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state.load_state_dict(state["tensors"])
        self._point_descent.load_state_dict(state["points"])
        self._mean_descent.optimiser.load_state_dict(state["means"])
        if self._log_sd_descent is not None:
            self._log_sd_descent.optimiser.load_state_dict(state["log_sds"])
