"""What a sampler notes of every trajectory, and the states it keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Trace:
    """Per trajectory t and chain c, on the CPU; the first `done` rows are filled. Part of checkpoints.

    acceptance: (T, C) float64, probability with which the proposal is taken (0 where it diverges). divergent: (T, C)
    bool, energy error above 1000 or not a number. jump: (T, C) float64, squared distance between the states before and
    after. log_posterior: (T, C) float64 of the state after, divided by T, without constants. steps: (T,) int64,
    leapfrog steps.
    """

    FIELDS = ("acceptance", "divergent", "jump", "log_posterior", "steps")

    def __init__(self, trajectories: int, chains: int) -> None:
        self.done = 0
        self.acceptance = torch.zeros(trajectories, chains, dtype=torch.float64)
        self.divergent = torch.zeros(trajectories, chains, dtype=torch.bool)
        self.jump = torch.zeros(trajectories, chains, dtype=torch.float64)
        self.log_posterior = torch.zeros(trajectories, chains, dtype=torch.float64)
        self.steps = torch.zeros(trajectories, dtype=torch.int64)

    def append(self, acceptance: Tensor, divergent: Tensor, jump: Tensor, log_posterior: Tensor, steps: int) -> None:
        """One trajectory; each tensor (C,)."""
        self.acceptance[self.done] = acceptance
        self.divergent[self.done] = divergent
        self.jump[self.done] = jump
        self.log_posterior[self.done] = log_posterior
        self.steps[self.done] = steps
        self.done += 1

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name)[: self.done].clone() for name in self.FIELDS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = len(state["steps"])
        for name in self.FIELDS:
            getattr(self, name)[: self.done] = state[name]


class Kept:
    """`keep` of `samples` states per chain, evenly spaced: those after sample number floor(i samples / keep), i = 0, 1,
    ... In `states`, (C, keep, P) float32 on the CPU; the first `filled` are there. Part of checkpoints."""

    def __init__(self, chains: int, keep: int, parameters: int, samples: int) -> None:
        self.states = torch.zeros(chains, keep, parameters)
        self.filled = 0
        self._due = [index * samples // keep for index in range(keep)]

    def offer(self, sample: int, states: Tensor) -> None:
        """States (C, P) after sample number `sample`, which are stored if it is their turn."""
        if self.filled < len(self._due) and sample == self._due[self.filled]:
            self.states[:, self.filled] = states.to(self.states)
            self.filled += 1

    def state_dict(self) -> dict[str, Any]:
        return {"states": self.states[:, : self.filled].clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.filled = state["states"].shape[1]
        self.states[:, : self.filled] = state["states"]
