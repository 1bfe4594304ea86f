"""Steps of stochastic gradient Hamiltonian Monte Carlo, in place on flat tensors (P,).

Settings are those of SGD: `lr` on the mean loss of N examples and `momentum`. With eta = lr/N, h = sqrt(eta) and
alpha = 1 - momentum, the friction is gamma = -ln(momentum)/h, whence exp(-gamma h) = momentum. `gradient` is that of
U = -log p, of all N examples. `inverse_mass` A is the diagonal of a constant inverse mass, None: 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


def baoa(
    weights: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    noise: Tensor | None,
    *,
    h: float,
    decay: float,
    temperature: float,
    inverse_mass: Tensor | None = None,
) -> None:
    """One step of a splitting of Langevin dynamics, of second order in h (Leimkuhler and Matthews 2013):

    m -= h G;  w += h/2 A m;  m = decay m + sqrt(T (1 - decay^2)) A^-1/2 xi;  w += h/2 A m.

    noise: xi, standard Gaussian (P,); None: at temperature 0, which is SGD with momentum.
    """
    momentum.add_(gradient, alpha=-h)
    if noise is None:
        _drift(weights, momentum, inverse_mass, h / 2 * (1 + decay))
        momentum.mul_(decay)
        return
    _drift(weights, momentum, inverse_mass, h / 2)
    momentum.mul_(decay)
    scale = math.sqrt(temperature * (1 - decay**2))
    if inverse_mass is None:
        momentum.add_(noise, alpha=scale)
    else:
        momentum.addcmul_(noise, inverse_mass.rsqrt(), value=scale)
    _drift(weights, momentum, inverse_mass, h / 2)


def sghmc(
    weights: Tensor,
    velocity: Tensor,
    gradient: Tensor,
    noise: Tensor | None,
    *,
    eta: float,
    alpha: float,
    temperature: float,
    inverse_mass: Tensor | None = None,
) -> None:
    """One step of the recurrence of Chen, Fox and Guestrin (2014, arXiv 1402.4102, eq. 15), w with the new velocity:

    v = (1 - alpha) v - eta A G + sqrt(2 alpha eta T A) xi;  w += v.

    noise: as of `baoa`.
    """
    velocity.mul_(1 - alpha)
    if inverse_mass is None:
        velocity.add_(gradient, alpha=-eta)
    else:
        velocity.addcmul_(inverse_mass, gradient, value=-eta)
    if noise is not None:
        scale = math.sqrt(2 * alpha * eta * temperature)
        if inverse_mass is None:
            velocity.add_(noise, alpha=scale)
        else:
            velocity.addcmul_(noise, inverse_mass.sqrt(), value=scale)
    weights.add_(velocity)


def _drift(weights: Tensor, momentum: Tensor, inverse_mass: Tensor | None, time: float) -> None:
    if inverse_mass is None:
        weights.add_(momentum, alpha=time)
    else:
        weights.addcmul_(inverse_mass, momentum, value=time)


@dataclass(frozen=True)
class Integrator(ABC):
    """A step in units of SGD. `motion` (P,) is what moves the weights: momentum or velocity.

    examples: N. momentum: of SGD. temperature: T.
    """

    examples: int
    momentum: float
    temperature: float

    @abstractmethod
    def started(self, noise: Tensor, lr: float) -> Tensor:
        """A motion drawn at temperature T and mass 1, from standard Gaussian noise (P,)."""

    @abstractmethod
    def advance(
        self,
        weights: Tensor,
        motion: Tensor,
        gradient: Tensor,
        noise: Tensor | None,
        *,
        lr: float,
        inverse_mass: Tensor | None = None,
    ) -> None:
        """One step in place; noise None: at temperature 0."""

    @abstractmethod
    def kinetic(self, motion: Tensor, *, lr: float, inverse_mass: Tensor | None = None) -> Tensor:
        """P times the kinetic temperature, (): A m^2, or (1 - alpha/2) v^2 / (eta A), summed. Its mean is P T where
        gradients are exact and h is small."""


class Baoa(Integrator):
    """See `baoa`; the motion is the momentum."""

    def started(self, noise: Tensor, lr: float) -> Tensor:
        return noise * math.sqrt(self.temperature)

    def advance(
        self,
        weights: Tensor,
        motion: Tensor,
        gradient: Tensor,
        noise: Tensor | None,
        *,
        lr: float,
        inverse_mass: Tensor | None = None,
    ) -> None:
        h = math.sqrt(lr / self.examples)
        settings = {"h": h, "decay": self.momentum, "temperature": self.temperature}
        baoa(weights, motion, gradient, noise, inverse_mass=inverse_mass, **settings)

    def kinetic(self, motion: Tensor, *, lr: float, inverse_mass: Tensor | None = None) -> Tensor:
        return motion.dot(motion if inverse_mass is None else motion * inverse_mass)


class Sghmc(Integrator):
    """See `sghmc`; the motion is the velocity, of the size of a step."""

    def started(self, noise: Tensor, lr: float) -> Tensor:
        return noise * math.sqrt(self.temperature * lr / self.examples)

    def advance(
        self,
        weights: Tensor,
        motion: Tensor,
        gradient: Tensor,
        noise: Tensor | None,
        *,
        lr: float,
        inverse_mass: Tensor | None = None,
    ) -> None:
        settings = {"eta": lr / self.examples, "alpha": 1 - self.momentum, "temperature": self.temperature}
        sghmc(weights, motion, gradient, noise, inverse_mass=inverse_mass, **settings)

    def kinetic(self, motion: Tensor, *, lr: float, inverse_mass: Tensor | None = None) -> Tensor:
        # at rest the recurrence gives v a variance of eta T A / (1 - alpha/2), at any step size
        correction = 1 - (1 - self.momentum) / 2
        return motion.dot(motion if inverse_mass is None else motion / inverse_mass) * (correction * self.examples / lr)


INTEGRATORS: dict[Literal["baoa", "sghmc"], type[Integrator]] = {"baoa": Baoa, "sghmc": Sghmc}
