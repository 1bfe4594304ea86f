"""What chains of stochastic gradients store: states, their running statistics and their log posteriors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark import Fact, Problem
from methods.finetuning.statistics import statistics_of
from methods.hmc.stochastic_target import StochasticTarget


@dataclass(frozen=True)
class StochasticResult:
    """The stored states of all chains.

    states: (C, K, P) float32 on the CPU, K = cycles * snapshots in the order of time. shapes: name -> shape of the
    tensors that lie one after the other in P. buffers: name -> (C, K, ...) float32 on the CPU, running statistics that
    belong to each state; empty where the network keeps none. log_posterior: (C, K) float64, -(CE + 1/2 sum (w/s)^2)/T
    up to a constant. facts: integrator, precondition, lr, temperatures and counts.
    """

    states: Tensor
    shapes: dict[str, torch.Size]
    buffers: dict[str, Tensor]
    log_posterior: Tensor
    facts: dict[str, Fact]


class Kept:
    """Memory for what is stored, on the CPU; see `StochasticResult`."""

    def __init__(self, problem: Problem, target: StochasticTarget, chains: int, states: int) -> None:
        own = dict(problem.network.named_buffers())
        self.states = torch.empty(chains, states, len(target.weights))
        self.log_posterior = torch.full((chains, states), math.nan, dtype=torch.float64)
        self.buffers = {name: torch.empty(chains, states, *own[name].shape) for name in statistics_of(problem.network)}
        self._filled = 0

    def put(self, chain: int, place: int, weights: Tensor, buffers: Mapping[str, Tensor], log_posterior: float) -> None:
        """Store one state in its place."""
        self.states[chain, place].copy_(weights.detach())
        for name, buffer in buffers.items():
            self.buffers[name][chain, place].copy_(buffer)
        self.log_posterior[chain, place] = log_posterior
        self._filled = chain * self.states.shape[1] + place + 1

    def state_dict(self) -> dict[str, Any]:
        """Without the memory that nothing has been written to yet."""
        return {name: tensor.flatten(0, 1)[: self._filled] for name, tensor in self._tensors().items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name, tensor in self._tensors().items():
            self._filled = len(saved[name])
            tensor.flatten(0, 1)[: self._filled] = saved[name]

    def _tensors(self) -> dict[str, Tensor]:
        return {"states": self.states, "log_posterior": self.log_posterior, **self.buffers}
