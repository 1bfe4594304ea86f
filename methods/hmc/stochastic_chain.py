"""One chain of stochastic gradient sampling: what a step does, what is measured, and going back to a cycle's start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from methods.finetuning.flat import chunks
from methods.hmc.cyclical import Cycle
from methods.hmc.integrators import Integrator
from methods.hmc.precondition import RmsPreconditioner
from methods.hmc.stochastic_target import StochasticTarget


class StochasticChain:
    """Moves the weights of `target` through cycles. Part of checkpoints.

    network: where the chain starts. lr: lr0 of the cycles; `restart` halves it. preconditioned: by `RmsPreconditioner`.
    generator: of the noise, on the device of the weights; its state is the run context's business.
    """

    def __init__(
        self,
        target: StochasticTarget,
        network: nn.Module,
        cycle: Cycle,
        integrator: Integrator,
        *,
        lr: float,
        preconditioned: bool,
        generator: torch.Generator,
    ) -> None:
        target.load(network)
        self.lr, self._target, self._cycle, self._integrator = lr, target, cycle, integrator
        self._generator = generator
        flat = target.weights.flat
        self._preconditioner = (
            RmsPreconditioner(flat, (target.scale_vector() * target.examples) ** -2) if preconditioned else None
        )
        noise = torch.empty_like(flat).normal_(generator=generator)
        self._motion = integrator.started(noise, lr)
        # motion keeps what it had while exploring for about 1/(1 - momentum) steps: not a matter of temperature
        relaxation = math.ceil(1 / (1 - integrator.momentum))
        self._counted_from = cycle.first_sampling + min(relaxation, cycle.sampling_steps // 2)
        self.relaxes = cycle.sampling_steps >= 2 * relaxation
        """Whether sampling stages are long enough for their temperatures to mean anything."""
        self._sums = torch.zeros(2, dtype=torch.float64, device=flat.device)  # sums over steps of P T_kin, P T_conf
        self._past = torch.zeros_like(self._sums)  # the same over the cycles that are finished
        self._counted = self._past_counted = 0
        self._begin: dict[str, Any] = {}
        self.begin_cycle()

    def step(self, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        """Step t of the cycle on a batch; its mean cross-entropy (), detached. Nothing waits for the device."""
        loss = self._target.backward(inputs, labels)
        self._move(t)
        return loss

    @torch.no_grad()
    def _move(self, t: int) -> None:
        weights, gradient, sampling = self._target.weights.flat, self._target.gradient.flat, self._cycle.samples(t)
        lr, counted = self.lr * self._cycle.factor(t), t >= self._counted_from
        if self._preconditioner is not None and not sampling:
            self._preconditioner.see(gradient, self._target.examples)
        if counted:
            self._counted += 1
            self._sums[1] += weights.dot(gradient)
        for w, m, g, mass in self._pieces():
            noise = torch.empty_like(w).normal_(generator=self._generator) if sampling else None
            self._integrator.advance(w, m, g, noise, lr=lr, inverse_mass=mass)
            if counted:
                self._sums[0] += self._integrator.kinetic(m, lr=lr, inverse_mass=mass)

    def _pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        flats = self._target.weights.flat, self._motion, self._target.gradient.flat
        if self._preconditioner is None:
            yield from ((w, m, g, None) for w, m, g in chunks(*flats))
        else:
            yield from ((w, m, g, a) for w, m, g, a in chunks(*flats, self._preconditioner.inverse_mass))

    def temperatures(self) -> tuple[float, float] | None:
        """(T_kin, T_conf) over the sampling steps of this cycle so far, both T for an exact sampler; None before the
        first that counts: up to half of a stage is left out, in which momenta relax. Waits for the device."""
        return self._mean(self._sums, self._counted)

    def past_temperatures(self) -> tuple[float, float] | None:
        """The same over all finished cycles."""
        return self._mean(self._past, self._past_counted)

    def _mean(self, sums: Tensor, steps: int) -> tuple[float, float] | None:
        if steps == 0:
            return None
        kinetic, configurational = (sums / (steps * len(self._target.weights))).tolist()
        return kinetic, configurational

    def begin_cycle(self) -> None:
        """Count this cycle's temperatures as past ones, and remember the state as that to which `restart` returns."""
        self._past += self._sums
        self._past_counted += self._counted
        self._clear()
        preconditioner = {} if self._preconditioner is None else self._preconditioner.state_dict()
        moving = {"weights": self._target.weights.flat, "motion": self._motion, **preconditioner}
        self._begin = {
            name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in moving.items()
        }

    def restart(self) -> None:
        """Back to where this cycle began, with half the learning rate."""
        self.lr /= 2
        self._clear()
        self._put(self._begin)

    def _clear(self) -> None:
        self._sums.zero_()
        self._counted = 0

    @torch.no_grad()
    def _put(self, moving: dict[str, Any]) -> None:
        self._target.weights.flat.copy_(moving["weights"])
        self._motion.copy_(moving["motion"])
        if self._preconditioner is not None:
            self._preconditioner.load_state_dict(moving)

    def state_dict(self) -> dict[str, Any]:
        preconditioner = {} if self._preconditioner is None else self._preconditioner.state_dict()
        return {
            "now": {"weights": self._target.weights.flat, "motion": self._motion, **preconditioner},
            "begin": self._begin,
            "lr": self.lr,
            "sums": self._sums,
            "past": self._past,
            "counted": [self._counted, self._past_counted],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._put(state["now"])
        device = self._motion.device
        self._begin = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in state["begin"].items()
        }
        self.lr = state["lr"]
        self._sums.copy_(state["sums"])
        self._past.copy_(state["past"])
        self._counted, self._past_counted = state["counted"]
