"""What a gradient estimator is, to the step that uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from methods.finetuning.intercept import Fallbacks


class Estimator(Protocol):
    """Noise of one step, in the weights of its forward passes; gradients of mu and psi after the backward passes."""

    def begin(self) -> None:
        """New noise."""

    def weights(self) -> Mapping[str, Tensor]:
        """The Bayesian parameters for a forward pass."""

    def leaves(self) -> Sequence[Tensor]:
        """Where `backward` leaves gradients."""

    def mean_gradients(self) -> list[Tensor]:
        """d loss / d mu, tensor by tensor. Call before `log_sd_gradient`."""

    def log_sd_gradient(self) -> Tensor:
        """d loss / d psi, flat (D,). May overwrite the noise: once per step."""

    def fallbacks(self) -> Fallbacks:
        """Functions of torch that got one sample for the whole batch for lack of a formula."""
