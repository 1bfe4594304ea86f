"""Diagonal masses from the variance of visited states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Welford:
    """Running mean and sum of squared deviations of states, over chains and time (Welford 1962; batches as by Chan,
    Golub and LeVeque 1983). Part of checkpoints."""

    FLOOR, PSEUDO = 1e-3, 5

    def __init__(self, parameters: int, device: torch.device) -> None:
        self.count = 0
        self._mean = torch.zeros(parameters, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self._mean)

    def add(self, states: Tensor) -> None:
        """C states (C, P)."""
        new = states.double()
        chains, mean = len(new), new.mean(0)
        total = self.count + chains
        shift = mean - self._mean
        self._squares += (new - mean).square().sum(0) + shift.square() * (self.count * chains / total)
        self._mean += shift * (chains / total)
        self.count = total

    def inverse_mass(self, unit: float) -> Tensor:
        """M^-1 = (K/(K+5) variance + 5/(K+5) 1e-3) / unit^2, (P,) float64, K states seen (the shrinkage of Stan).

        unit: a length that is to have mass 1, the prior's standard deviation: where the data say nothing, time runs as
        with unit masses, so that trajectories need no other length.
        """
        variance = self._squares / max(self.count - 1, 1)
        share = self.count / (self.count + self.PSEUDO)
        return (share * variance + (1 - share) * self.FLOOR) / unit**2

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self._mean.clone(), "squares": self._squares.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self._mean = state["mean"].to(self._mean.device, copy=True)
        self._squares = state["squares"].to(self._squares.device, copy=True)
