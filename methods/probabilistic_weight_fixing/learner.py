"""What a step trains: means and deviations that are not fixed yet, and the rest, on the cross-entropy, by SGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.finetuning.descent import PointDescent, gradient_of
from methods.finetuning.flat import chunks
from methods.finetuning.step import Learner
from methods.fixed_weights.state import FixingState
from methods.optimisers import Group, Sgd, clip
from methods.probabilistic_weight_fixing.config import WeightFixingConfig
from methods.probabilistic_weight_fixing.sampling import push, sample_into, sigma_gradient

Part = Literal["all", "means", "sigmas"]


class FixingLearner(Learner):
    """One sampled network per step; the loss has neither a KL term nor a prior.

    part: what the next steps move. all: everything with noise. means: means and the rest, without noise. sigmas: the
    deviations alone. Nothing acts on a fixed weight, but for `decay_fixed` and, under the join `keep`, its sigma.
    """

    advice = "Try a third of lr."
    part: Part = "all"

    def __init__(
        self,
        network: nn.Module,
        state: FixingState,
        config: WeightFixingConfig,
        rate: float,
        generator: torch.Generator,
        *,
        learned: Tensor,
        pushed: Tensor,
    ) -> None:
        """rate: learning rate. generator: of the noise, on the network's device. learned, pushed: (N,) bool, weights
        that are trained at all, weights whose sigma the regulariser acts on."""
        super().__init__(network, state.points)
        self.state, self._config, self._rate, self._generator = state, config, rate, generator
        self._sigma = state.weights.deviations
        self._learned, self._pushed = learned, pushed
        self._eps = torch.empty_like(state.mu.flat)
        self._sample = torch.empty_like(state.mu.flat).requires_grad_()
        self.begin_round()

    def begin_round(self) -> None:
        """A new state of the optimisers, so that nothing is left of weights that have been fixed; new masks."""
        config, weights = self._config, self.state.weights
        self._free_mu = self._learned & ~weights.fixed
        self._free_sigma = self._learned if config.sigma_join == "keep" else self._free_mu
        self._decayed = self._learned if config.decay_fixed else self._free_mu
        self._descents = {name: self._sgd([tensor]) for name, tensor in (("mu", weights.mu), ("sigma", self._sigma))}
        trained = self.points.trained
        self._point_descent = PointDescent(
            self.points, self._sgd(list(trained.values())), lambda t: self._rate, set(trained), config.weight_decay
        )

    @torch.no_grad()
    def begin(self) -> None:
        weights = self.state.weights
        if self.part == "means":
            self._sample.copy_(weights.mu)
            return
        self._eps.normal_(generator=self._generator)
        for sample, mu, sigma, eps in chunks(self._sample, weights.mu, self._sigma, self._eps):
            sample_into(sample, mu, sigma, eps)

    def weights(self) -> Mapping[str, Tensor]:
        return {**self.points.tensors(), **self.state.shaped(self._sample)}

    def leaves(self) -> Sequence[Tensor]:
        return [self._sample, *self._point_descent.leaves()]

    @torch.no_grad()
    def update(self, t: int, found_inf: Tensor) -> None:
        weights, gradient = self.state.weights, gradient_of(self._sample)
        self._to_parameters(gradient)
        if self._config.clip_norm is not None:
            clip(self._moved_gradients(gradient), self._config.clip_norm)
        self._add_decay(gradient)
        if self.part != "means":
            self._sigma.grad = self._eps
            self._descents["sigma"].step(self._rate, found_inf)
        if self.part != "sigmas":
            weights.mu.grad = gradient
            self._descents["mu"].step(self._rate, found_inf)
            self._point_descent.update(t, found_inf)

    def _to_parameters(self, gradient: Tensor) -> None:
        """dL/dw in place to dL/dmu, and the noise in place to dL/dsigma with the push; both 0 where fixed."""
        config = self._config
        masks = (self._free_mu, self._free_sigma, self._pushed)
        for g, eps, s, free_mu, free_sigma, pushed in chunks(gradient, self._eps, self._sigma, *masks):
            if self.part != "means":
                of_sigma = sigma_gradient(g, s, eps)
                if config.reg != "none":
                    of_sigma += push(s, eps, config.reg, config.alpha, config.reg_cutoff) * pushed
                torch.mul(of_sigma, free_sigma, out=eps)
            g *= free_mu

    def _moved_gradients(self, gradient: Tensor) -> list[Tensor]:
        points = [leaf.grad for leaf in self._point_descent.leaves() if leaf.grad is not None]
        moved = {"all": [gradient, self._eps, *points], "means": [gradient, *points], "sigmas": [self._eps]}
        return moved[self.part]

    def _add_decay(self, gradient: Tensor) -> None:
        """L2 to the gradients of what this part moves."""
        decay, weights = self._config.weight_decay, self.state.weights
        if decay == 0:
            return
        if self.part != "sigmas":
            for g, mu, mask in chunks(gradient, weights.mu, self._decayed):
                g.add_(mu * mask, alpha=decay)
        if self._config.decay_sigma and self.part != "means":
            for g, sigma, mask in chunks(self._eps, self._sigma, self._free_sigma):
                g.add_(sigma * mask, alpha=decay)

    def _sgd(self, tensors: list[Tensor]) -> Sgd:
        return Sgd([Group(tensors)], momentum=self._config.momentum, nesterov=False)

    def release(self) -> None:
        """Give back the memory of noise, gradients and optimisers, once training is over; no step can follow."""
        self._point_descent.release()
        del self._eps, self._sample, self._descents, self._point_descent

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.state_dict(),
            "points": self._point_descent.state_dict(),
            **{name: descent.state_dict() for name, descent in self._descents.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state.load_state_dict(state["state"])
        self.begin_round()
        self._point_descent.load_state_dict(state["points"])
        for name, descent in self._descents.items():
            descent.load_state_dict(state[name])
