"""One optimiser step on the expected loss plus KL/N, with one weight sample for the whole batch.

Reparameterisation (Blundell et al. 2015): w = mu + exp(psi) eps, so that with g = d loss / d w
    d/d mu = g,        d/d psi = g (w - mu),
which is exact, and needs no graph through exp and the noise. The sample and the gradient of psi live in the same
memory: it is filled with eps, becomes w, after the backward pass w - mu, and then the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import Diverged, forward
from methods.mean_field.flat import Flat, chunks
from methods.mean_field.prior import Prior
from methods.mean_field.state import MeanFieldState
from methods.training import set_rate

MAX_SKIPPED = 10
LOWEST_PSI = -20.0
HEADROOM = 0.5  # nats by which psi may exceed the value at which it settles without data

Rate = Callable[[int], float]


@torch.no_grad()
def perturb(noise: Tensor, mean: Tensor, log_sd: Tensor) -> None:
    """Turn standard normal `noise` into the sample mean + exp(log_sd) noise, in place; all flat (D,)."""
    for part, mu, psi in chunks(noise, mean, log_sd):
        part.mul_(psi.exp()).add_(mu)


@torch.no_grad()
def log_sd_gradient(sample: Flat, mean: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Turn the sample into the gradient of psi, g (w - mu), in place; returns it, flat (D,)."""
    sample.flat.sub_(mean)
    torch._foreach_mul_(list(sample.views.values()), list(gradients))
    return sample.flat


def log_sd_limits(prior: Prior) -> tuple[float, float]:
    """What psi is kept within when it is clamped."""
    return LOWEST_PSI, prior.log_sd + HEADROOM


class MeanFieldStep:
    """The step itself and what it remembers between steps. Part of checkpoints.

    prior: of the Bayesian means and deviations. decaying: names of `state.trained` with an L2 term prior.lam.
    mean_rate, log_sd_rate: learning rates at step t; log_sd_rate None keeps psi where it is.
    clamp: keep psi within [-20, ln s0 + 0.5].
    """

    def __init__(
        self,
        network: nn.Module,
        state: MeanFieldState,
        prior: Prior,
        *,
        decaying: set[str],
        optimiser: str,
        mean_rate: Rate,
        log_sd_rate: Rate | None,
        clamp: bool,
        generator: torch.Generator,
        micro_batch: int | None,
    ) -> None:
        self.state, self.prior = state, prior
        self.skipped = self.skipped_in_row = 0
        self._network, self._generator, self._micro_batch = network, generator, micro_batch
        self._mean_rate, self._log_sd_rate, self._clamp = mean_rate, log_sd_rate, clamp
        self._sample = Flat.like(state.mu)
        self._leaves = {name: view.requires_grad_() for name, view in self._sample.views.items()}
        self._points = {name: tensor.requires_grad_() for name, tensor in state.trained.items()}
        self._decaying = [name for name in self._points if name in decaying]
        self._means = list(state.mu.views.values())
        self._mean_optimiser = _mean_optimiser(optimiser, [*self._means, *self._points.values()])
        self._log_sd_optimiser = (
            torch.optim.Adam([state.psi.flat], lr=0.0, eps=1e-12, fused=True)
            if log_sd_rate is not None and len(state.psi)
            else None
        )

    def __call__(self, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        """Step number t on a batch; returns the batch loss, detached.

        A non-finite loss changes nothing but the generator.

        Raises:
            Diverged: more than ten such losses in a row.
        """
        state, sample = self.state, self._sample
        with torch.no_grad():
            sample.flat.normal_(generator=self._generator)
            perturb(sample.flat, state.mu.flat, state.psi.flat)
        before = [buffer.clone() for buffer in state.buffers.values()]
        loss = self._backward(inputs, labels)
        if not math.isfinite(float(loss)):
            self._skip(before)
            return loss
        self.skipped_in_row = 0
        self._update(t)
        return loss

    def _backward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the batch; its gradients accumulate at the leaves, one micro-batch at a time."""
        weights = {**self._leaves, **self._points, **self.state.fixed, **self.state.buffers}
        size = self._micro_batch or len(labels)
        total = torch.zeros((), device=labels.device)
        for x, y in zip(inputs.split(size), labels.split(size), strict=True):
            loss = cross_entropy(forward(self._network, weights, x), y) * (len(y) / len(labels))
            loss.backward()
            total += loss.detach()
        return total

    @torch.no_grad()
    def _update(self, t: int) -> None:
        gradients = [_gradient(leaf) for leaf in self._leaves.values()]
        if self._log_sd_optimiser is not None and self._log_sd_rate is not None:
            psi = self.state.psi.flat
            psi.grad = log_sd_gradient(self._sample, self.state.mu.flat, gradients)
            self.prior.add_log_sd_gradient(psi.grad, psi)
            set_rate(self._log_sd_optimiser, self._log_sd_rate(t))
            self._log_sd_optimiser.step()
            psi.grad = None
            if self._clamp:
                psi.clamp_(*log_sd_limits(self.prior))
        self.prior.add_mean_gradient(gradients, self.state.mu.views)
        for mean, gradient in zip(self._means, gradients, strict=True):
            mean.grad = gradient
        if self._decaying:
            decayed = [self._points[name] for name in self._decaying]
            torch._foreach_add_([_gradient(point) for point in decayed], decayed, alpha=self.prior.lam)
        set_rate(self._mean_optimiser, self._mean_rate(t))
        self._mean_optimiser.step()
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for tensor in (*self._leaves.values(), *self._points.values(), *self._means):
            tensor.grad = None

    @torch.no_grad()
    def _skip(self, before: Sequence[Tensor]) -> None:
        """Leave no trace of the batch: running statistics go back to what they were `before` it."""
        self._drop_gradients()
        for buffer, value in zip(self.state.buffers.values(), before, strict=True):
            buffer.copy_(value)
        self.skipped += 1
        self.skipped_in_row += 1
        if self.skipped_in_row > MAX_SKIPPED:
            raise Diverged(
                f"the loss was not finite in {self.skipped_in_row} steps in a row. "
                "Try a third of lr_mu, and half of travel."
            )

    def release(self) -> None:
        """Give back the memory of optimisers and gradients, once training is over; no step can follow."""
        self._drop_gradients()
        del self._mean_optimiser, self._log_sd_optimiser, self._sample, self._leaves
        for point in self._points.values():
            point.requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        psi = self._log_sd_optimiser
        return {
            "tensors": self.state.state_dict(),
            "mean_optimiser": self._mean_optimiser.state_dict(),
            "log_sd_optimiser": None if psi is None else psi.state_dict(),
            "skipped": [self.skipped, self.skipped_in_row],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.state.load_state_dict(saved["tensors"])
        self._mean_optimiser.load_state_dict(saved["mean_optimiser"])
        if self._log_sd_optimiser is not None:
            self._log_sd_optimiser.load_state_dict(saved["log_sd_optimiser"])
        self.skipped, self.skipped_in_row = saved["skipped"]


def _mean_optimiser(name: str, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Without weight decay: the prior's gradient is added by hand, once."""
    if name == "adam":
        return torch.optim.Adam(parameters, lr=0.0, fused=True)
    # The rate is set before every step; Nesterov's form needs a positive momentum only.
    return torch.optim.SGD(parameters, lr=0.0, momentum=0.9, nesterov=True, fused=True)


def _gradient(leaf: Tensor) -> Tensor:
    """The leaf's gradient; zeros where this batch did not use it."""
    if leaf.grad is None:
        leaf.grad = torch.zeros_like(leaf)
    return leaf.grad
