"""One trajectory of Hamiltonian dynamics, for all chains at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from methods.hmc.density import Evaluation, Target


class Proposal(NamedTuple):
    """Where a trajectory ends: states and momenta (C, P), the density there, and H1 - H0 (C,) float64.

    A trajectory that leaves the numbers has an energy difference that is not finite.
    """

    states: Tensor
    momenta: Tensor
    evaluation: Evaluation
    energy_change: Tensor

    @property
    def finite(self) -> Tensor:
        """(C,) bool."""
        return self.energy_change.isfinite()

    @property
    def acceptance(self) -> Tensor:
        """min(1, exp(H0 - H1)), (C,) float64; 0 where that is no number."""
        return torch.where(self.finite, (-self.energy_change).clamp(max=0).exp(), 0.0)


def leapfrog(
    target: Target,
    states: Tensor,
    evaluation: Evaluation,
    momenta: Tensor,
    step_size: float,
    steps: int,
    inverse_mass: Tensor | None = None,
) -> Proposal:
    """`steps` leapfrog steps from `states` (C, P), at a cost of `steps` gradients.

    evaluation: of the target at `states`. momenta: (C, P). inverse_mass: diagonal of M^-1, (P,); None: unit masses.
    No argument is changed.
    """
    start, kinetic = evaluation, _kinetic(momenta, inverse_mass)
    speed = None if inverse_mass is None else inverse_mass.to(states.dtype)
    moved = states.clone()
    momenta = torch.add(momenta, start.gradient, alpha=step_size / 2)
    for step in range(1, steps + 1):
        if speed is None:
            moved.add_(momenta, alpha=step_size)
        else:
            moved.addcmul_(momenta, speed, value=step_size)
        evaluation = target.gradient(moved)
        momenta.add_(evaluation.gradient, alpha=step_size if step < steps else step_size / 2)
    # Each term by itself, then their differences: the terms are large and nearly cancel.
    potential = (start.log_likelihood - evaluation.log_likelihood) + (start.log_prior - evaluation.log_prior)
    energy_change = potential / target.temperature + (_kinetic(momenta, inverse_mass) - kinetic)
    return Proposal(moved, momenta, evaluation, energy_change)


def _kinetic(momenta: Tensor, inverse_mass: Tensor | None) -> Tensor:
    """r' M^-1 r / 2 per chain, (C,) float64."""
    squares = momenta.double().square()
    return 0.5 * (squares.sum(1) if inverse_mass is None else squares @ inverse_mass.double())
