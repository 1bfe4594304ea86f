"""The geometry of an attack: where a step goes, and the ball and the range that no step leaves.

A perturbation (n, C, H, W) is in units of white - black, so that black and white are 1 apart in every channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.config import Attack

MOMENTUM_DECAY = 1.0


def length(attack: Attack, fraction: float, inputs: Tensor) -> float:
    """A radius or step in the attack's norm: `fraction`, times the root of the dimension for l2."""
    return fraction * math.sqrt(inputs[0].numel()) if attack.norm == "l2" else fraction


def l2_norms(vectors: Tensor) -> Tensor:
    """Euclidean norm of every example, (n, 1, 1, 1) float64; the largest value is divided out, so that no square
    vanishes: the gradient of a confident network may be 1e-200."""
    rows = vectors.double().flatten(1)
    peaks = rows.abs().amax(dim=1, keepdim=True)
    norms: Tensor = peaks.squeeze(1) * (rows / peaks.where(peaks > 0, 1.0)).norm(dim=1)
    return norms.view(-1, 1, 1, 1)


def steepest(attack: Attack, gradient: Tensor) -> Tensor:
    """The direction of norm 1 in which the objective rises fastest; 0 for an example whose gradient is 0."""
    if attack.norm == "linf":
        return gradient.sign()
    norms = l2_norms(gradient)
    return (gradient / norms.where(norms > 0, 1.0)).to(gradient.dtype)


def with_momentum(momentum: Tensor, gradient: Tensor) -> Tensor:
    """Momentum plus the gradient divided by its L1 norm, example by example (Dong 2018)."""
    sums = gradient.double().flatten(1).abs().sum(dim=1).view(-1, 1, 1, 1)
    return MOMENTUM_DECAY * momentum + gradient / sums.where(sums > 0, 1.0)


@dataclass(frozen=True)
class Bounds:
    """Where attacked inputs may be: within `radius` of the clean inputs, between black and white.

    inputs: clean (n, C, H, W). black, white: (C, 1, 1) on the same device.
    """

    attack: Attack
    inputs: Tensor
    black: Tensor
    white: Tensor

    @property
    def scale(self) -> Tensor:
        """White - black, (C, 1, 1)."""
        return self.white - self.black

    @property
    def radius(self) -> float:
        """Of the ball, in the attack's norm."""
        return length(self.attack, self.attack.epsilon, self.inputs)

    def project(self, perturbation: Tensor) -> Tensor:
        """The perturbation moved into the ball, then into the range, which never leaves the ball: it shrinks it."""
        if self.attack.norm == "linf":
            perturbation = perturbation.clamp(-self.radius, self.radius)
        else:
            norms = l2_norms(perturbation)
            shrink = (self.radius / norms.where(norms > 0, 1.0)).clamp(max=1.0)
            perturbation = (perturbation * shrink).to(perturbation.dtype)
        return perturbation.clamp((self.black - self.inputs) / self.scale, (self.white - self.inputs) / self.scale)

    def attacked(self, perturbation: Tensor) -> Tensor:
        """The attacked inputs, (n, C, H, W); exactly the clean ones where the perturbation is 0."""
        moved = self.inputs + perturbation * self.scale
        return moved.clamp(self.black, self.white)  # rounding must not leave the range either


def random_start(attack: Attack, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A perturbation of each example, uniform in its ball, float32 on the CPU; not yet in the range."""
    if attack.norm == "linf":
        return attack.epsilon * (2 * torch.rand(shape, generator=generator) - 1)
    direction = torch.randn(shape, generator=generator)
    share = torch.rand((shape[0], 1, 1, 1), generator=generator) ** (1 / math.prod(shape[1:]))  # volume ~ radius^d
    return length(attack, attack.epsilon, direction) * share * steepest(attack, direction)
