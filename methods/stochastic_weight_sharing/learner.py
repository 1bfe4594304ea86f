"""What a step of stage 3 trains: codewords, outliers and the rest, on the ELBO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.finetuning.descent import Descent, PointDescent, gradient_of
from methods.finetuning.step import Learner
from methods.stochastic_weight_sharing.prior import Divergence, SharingPrior
from methods.stochastic_weight_sharing.sampler import Sampling, Sources
from methods.stochastic_weight_sharing.state import SharedState


class SharingLearner(Learner):
    """One weight draw per step. The labels stay.

    codebook_descent: of `SharedState.gaussians.codebook.table` and `outlier_log_sd`. outlier_mean_descent: of
    `outlier_mean`. point_descent: of the rest. generator: on the network's device.
    """

    advice = "Try a third of the learning rates of stage 3."

    def __init__(
        self,
        network: nn.Module,
        state: SharedState,
        prior: SharingPrior,
        sampling: Sampling,
        generator: torch.Generator,
        point_descent: PointDescent,
        codebook_descent: Descent,
        outlier_mean_descent: Descent,
    ) -> None:
        super().__init__(network, state.points)
        self.state, self.prior = state, prior
        self._sampler, self._generator = state.sampler(sampling), generator
        self._divergence = Divergence(prior, self._sampler)
        self._point_descent = point_descent
        self._descents = {"codebook": codebook_descent, "outlier_mean": outlier_mean_descent}
        self._sample = state.gaussians.memory()
        self._leaves = {name: view.requires_grad_() for name, view in self._sample.views.items()}
        self._sources: Sources | None = None
        for tensor in self._trained():
            tensor.requires_grad_()

    def begin(self) -> None:
        with torch.enable_grad():
            self._sources = self._sampler.draw(self._sample, self._generator)

    def weights(self) -> Mapping[str, Tensor]:
        return {**self.points.tensors(), **self._leaves}

    def leaves(self) -> Sequence[Tensor]:
        return [*self._leaves.values(), *self._point_descent.leaves()]

    def update(self, t: int, found_inf: Tensor) -> None:
        self._pull_back()
        for descent in self._descents.values():
            descent.optimiser.step(descent.rate(t), found_inf)
        self._point_descent.update(t, found_inf)

    def kl(self) -> float:
        """KL to the prior in nats, see `Divergence`. Waits for the device."""
        with torch.no_grad():
            return float(self._divergence())

    def release(self) -> None:
        """Give back the memory of noise, gradients and optimisers, once training is over; no step can follow."""
        self._point_descent.release()
        for tensor in self._trained():
            tensor.requires_grad_(False)
        del self._sample, self._leaves, self._sources, self._descents, self._point_descent

    def _trained(self) -> list[Tensor]:
        return list(self.state.gaussians.trained().values())

    def _pull_back(self) -> None:
        """Gradients of CE_mean + lambda KL / D at codebook and outliers, from those of the mean cross-entropy at the
        weights."""
        sources, labelling = self._sources, self.state.gaussians.labelling
        if sources is None:
            raise RuntimeError("`update` without `begin`: a step calls begin, loss, update")
        self._sources = None
        gradients = {name: gradient_of(leaf) for name, leaf in self._leaves.items()}
        with torch.enable_grad():
            penalty = self._divergence() * self.prior.rate
        found = torch.autograd.grad(
            [*sources.codewords, sources.outliers, sources.ellipses, penalty],
            self._trained(),
            [
                *self._sampler.codeword_gradients(self._sample, gradients),
                labelling.outliers.of(gradients),
                labelling.ellipses.of(gradients),
                torch.ones_like(penalty),
            ],
        )
        for tensor, gradient in zip(self._trained(), found, strict=True):
            tensor.grad = gradient

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.state_dict(),
            "points": self._point_descent.state_dict(),
            **{name: descent.optimiser.state_dict() for name, descent in self._descents.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state.load_state_dict(state["state"])
        self._point_descent.load_state_dict(state["points"])
        for name, descent in self._descents.items():
            descent.optimiser.load_state_dict(state[name])
