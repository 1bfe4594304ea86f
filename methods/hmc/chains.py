"""Hamiltonian Monte Carlo with several chains in one batch, one trajectory at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from methods.hmc.config import SamplingConfig
from methods.hmc.density import Evaluation, Target
from methods.hmc.leapfrog import Proposal, leapfrog
from methods.hmc.mass import Welford
from methods.hmc.step_size import DualAveraging, initial_step_size
from methods.hmc.trace import Kept, Trace

MOST_ENERGY_ERROR = 1000.0
"""Above, or where it is no number, a trajectory has diverged."""


class HmcChains:
    """C chains of Hamiltonian Monte Carlo (Neal 2011, arXiv 1206.1901) that share step size, masses and lengths.

    Each `step` is one trajectory of every chain. Burn-in: its first half takes every proposal that has not diverged,
    its second half accepts and rejects while dual averaging adapts the step size; after it nothing changes any more
    and, from `discard` trajectories later, every state counts, that of a rejected move again. With `mass: diag` the
    second half is halved once more: variances are taken in its first part, and the step size is adapted to them in its
    last. A fixed `step_size` is left as it is throughout.

    target: what is sampled. states: (C, P), where the chains start, on the target's device; their dtype is that of all
    computation. config: settled. scale: s, median standard deviation of the prior; `trajectory: auto` is pi/2 s.
    generators: C, on the CPU, one per chain: momenta and acceptance of a chain depend on its own only. jitter:
    generator of the lengths of trajectories, on the CPU, shared. The generators are part of `state_dict`.

    Raises:
        ValueError: shapes do not fit, or `config` is not settled.
    """

    def __init__(
        self,
        target: Target,
        states: Tensor,
        config: SamplingConfig,
        *,
        scale: float,
        generators: Sequence[torch.Generator],
        jitter: torch.Generator,
    ) -> None:
        burn_in, samples, keep, longest = _lengths(config)
        if states.dim() != 2 or states.shape != (len(generators), target.parameters):
            raise ValueError(
                f"{len(generators)} generators and {target.parameters} parameters need states of shape "
                f"({len(generators)}, {target.parameters}); got {tuple(states.shape)}"
            )
        self.states = states.detach().clone()
        self.trace = Trace(burn_in + config.discard + samples, len(states))
        self.kept = Kept(len(states), keep, target.parameters, samples)
        self.step_size = 0.0 if config.step_size == "auto" else float(config.step_size)
        """Of the next trajectory; 0 until the first has found one."""
        self.gradients = 0
        """Gradients so far, over all chains."""
        self._target, self._config, self._scale = target, config, scale
        self._generators, self._jitter = list(generators), jitter
        self._burn_in, self._longest = burn_in, longest
        self._adapts_mass = config.mass == "diag"
        self._inverse_mass: Tensor | None = None
        self._welford = Welford(target.parameters, states.device)
        self._averaging: DualAveraging | None = None
        self._evaluation: Evaluation | None = None

    @property
    def trajectories(self) -> int:
        """Of a whole run: burn-in, discarded, samples."""
        return len(self.trace.steps)

    @property
    def done(self) -> bool:
        return self.trace.done == self.trajectories

    @property
    def length(self) -> float:
        """tau, of a trajectory."""
        return math.pi / 2 * self._scale if self._config.trajectory == "auto" else float(self._config.trajectory)

    @property
    def leapfrog(self) -> int:
        """L, nominal leapfrog steps of a trajectory: ceil(tau / step size), at most `max_leapfrog`."""
        return min(self._wanted, self._longest)

    @property
    def truncated(self) -> bool:
        """Whether `max_leapfrog` makes trajectories shorter than tau."""
        return self._wanted > self._longest

    @property
    def _wanted(self) -> int:
        if self.step_size == 0:
            return 1
        ratio = self.length / self.step_size
        return max(1, math.ceil(ratio * (1 - 1e-12)))  # 0.3 / 0.1 is three steps

    @property
    def acceptance(self) -> float:
        """Mean acceptance probability after burn-in; NaN before its end."""
        return float(self.trace.acceptance[self._burn_in : self.trace.done].mean())

    @property
    def divergences(self) -> int:
        """Diverged trajectories after burn-in, over all chains."""
        return int(self.trace.divergent[self._burn_in : self.trace.done].sum())

    @property
    def jump(self) -> float:
        """Mean squared jump distance after burn-in; NaN before its end."""
        return float(self.trace.jump[self._burn_in : self.trace.done].mean())

    def step(self) -> None:
        """One trajectory of every chain.

        Raises:
            ValueError: all trajectories are done.
            Diverged: no step size is accepted at the start.
        """
        if self.done:
            raise ValueError(f"all {self.trajectories} trajectories are done")
        index, before = self.trace.done, self.states
        evaluation = self._evaluated()
        self._enter(index)
        momenta = self._momenta()
        chance = torch.stack([torch.rand((), generator=each, dtype=torch.float64) for each in self._generators])
        share = 1 + self._config.jitter * (2 * float(torch.rand((), generator=self._jitter, dtype=torch.float64)) - 1)
        steps = max(1, round(self.leapfrog * share))
        proposal = self._propose(momenta, self.step_size, steps)
        divergent = ~(proposal.energy_change <= MOST_ENERGY_ERROR) | ~proposal.finite
        acceptance = torch.where(divergent, 0.0, proposal.acceptance)
        free = index < self._burn_in // 2
        accepted = ~divergent if free else chance.to(acceptance.device) < acceptance
        self.states = torch.where(accepted[:, None], proposal.states, before)
        self._evaluation = evaluation.where(accepted, proposal.evaluation)
        self._note(before, acceptance, divergent, steps)
        self._adapt(index, free)
        self.kept.offer(index - self._burn_in - self._config.discard, self.states)

    def _enter(self, index: int) -> None:
        """What changes before trajectory number `index`."""
        second = self._burn_in // 2
        last = (second + self._burn_in) // 2
        if self._adapts_mass and index == last and self._welford.count > 1:
            self._inverse_mass = self._welford.inverse_mass(self._scale)
            if self._config.step_size == "auto":
                self.step_size = 0.0
        if self.step_size == 0:
            momenta = self._momenta()
            self.step_size = initial_step_size(lambda step: float(self._propose(momenta, step, 1).acceptance.mean()))
            self._averaging = None
        if self._config.step_size != "auto":
            return
        if second <= index < self._burn_in and self._averaging is None:
            self._averaging = DualAveraging(self.step_size, self._config.target_accept)
        if index == self._burn_in and self._averaging is not None:
            self.step_size = self._averaging.average

    def _adapt(self, index: int, free: bool) -> None:
        """Learn from trajectory number `index`, if it belongs to the burn-in."""
        if index >= self._burn_in:
            return
        if self._adapts_mass and not free and self._inverse_mass is None:
            self._welford.add(self.states)
        if self._config.step_size != "auto":
            return
        if self._averaging is not None:
            self._averaging.update(float(self.trace.acceptance[index].mean()))
            self.step_size = self._averaging.step_size
        elif float(self.trace.divergent[index].double().mean()) >= 0.5:
            self.step_size /= 2  # one accepted step is no stable trajectory; without this the half could be lost

    def _momenta(self) -> Tensor:
        """r ~ N(0, M), (C, P)."""
        rows = [
            torch.randn(self._target.parameters, generator=each, dtype=self.states.dtype) for each in self._generators
        ]
        momenta = torch.stack(rows).to(self.states.device)
        return momenta if self._inverse_mass is None else momenta / self._inverse_mass.sqrt().to(momenta.dtype)

    def _evaluated(self) -> Evaluation:
        if self._evaluation is None:
            self._evaluation = self._target.gradient(self.states)
            self.gradients += len(self.states)
        return self._evaluation

    def _propose(self, momenta: Tensor, step_size: float, steps: int) -> Proposal:
        self.gradients += steps * len(self.states)
        return leapfrog(self._target, self.states, self._evaluated(), momenta, step_size, steps, self._inverse_mass)

    def _note(self, before: Tensor, acceptance: Tensor, divergent: Tensor, steps: int) -> None:
        now = self._evaluated()
        posterior = (now.log_likelihood + now.log_prior) / self._target.temperature
        jump = (self.states - before).double().square().sum(1)
        numbers = torch.stack([acceptance, divergent.double(), jump, posterior]).cpu()  # one wait for the device
        self.trace.append(numbers[0], numbers[1] > 0, numbers[2], numbers[3], steps)

    def state_dict(self) -> dict[str, Any]:
        """Everything from which the chains go on bit for bit."""
        now = self._evaluation
        return {
            "states": self.states,
            "evaluation": None if now is None else list(now),
            "step_size": self.step_size,
            "gradients": self.gradients,
            "averaging": None if self._averaging is None else self._averaging.state_dict(),
            "welford": self._welford.state_dict(),
            "inverse_mass": self._inverse_mass,
            "trace": self.trace.state_dict(),
            "kept": self.kept.state_dict(),
            "generators": [each.get_state() for each in (*self._generators, self._jitter)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, for chains built with the same arguments."""

        def own(saved: Tensor) -> Tensor:
            # A copy: what is mapped from a file may lie at odd addresses, where sums come out with other last bits.
            return saved.to(self.states.device, copy=True)

        self.states = own(state["states"])
        saved, mass, averaging = state["evaluation"], state["inverse_mass"], state["averaging"]
        self._evaluation = None if saved is None else Evaluation(*(own(each) for each in saved))
        self._inverse_mass = None if mass is None else own(mass)
        self.step_size, self.gradients = state["step_size"], state["gradients"]
        self._averaging = None
        if averaging is not None:
            self._averaging = DualAveraging(1.0, self._config.target_accept)
            self._averaging.load_state_dict(averaging)
        self._welford.load_state_dict(state["welford"])
        self.trace.load_state_dict(state["trace"])
        self.kept.load_state_dict(state["kept"])
        for generator, each in zip((*self._generators, self._jitter), state["generators"], strict=True):
            generator.set_state(each.cpu())


def _lengths(config: SamplingConfig) -> tuple[int, int, int, int]:
    """burn_in, samples, keep, max_leapfrog."""
    lengths = (config.burn_in, config.samples, config.keep, config.max_leapfrog)
    if any(length is None for length in lengths):
        raise ValueError(f"burn_in, samples, keep, max_leapfrog are {lengths}; settle the settings first: settled()")
    burn_in, samples, keep, longest = (int(length) for length in lengths if length is not None)
    return burn_in, samples, keep, longest
