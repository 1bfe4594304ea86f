"""Weights as points in the plane (mu, sigma), tensor by tensor and piece by piece: nothing is concatenated.

The 2-Wasserstein distance of two Gaussians is the Euclidean distance of their points (mu, sigma).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark import ConfigError, Diverged

CHUNK = 1 << 20
"""Weights per piece: their temporaries stay in the processor's cache."""
LOWEST_SIGMA, HIGHEST_SIGMA = 1e-8, 1e3


class Piece(NamedTuple):
    """start: flat index of the first weight. x, s: (m,) float32 or float64, in units of the tensor's scale."""

    start: int
    x: Tensor
    s: Tensor


class Plane:
    """N points (x, s) = (mu, sigma)/r with r the scale of the tensor; the flat index runs over the tensors in order.

    sigma is kept within [1e-8 r, 1e3 r].
    """

    def __init__(self, mu: Mapping[str, Tensor], sigma: Mapping[str, Tensor], scale: Mapping[str, float]) -> None:
        """mu, sigma: floating-point tensors by name, same names and shapes, on one device. scale: r > 0 by name.

        Raises:
            ConfigError: no weights; names or shapes differ; a negative sigma; a scale that is not positive.
            Diverged: a number that is not finite; names the tensor.
        """
        if not any(tensor.numel() for tensor in mu.values()):
            raise ConfigError("there are no weights to share: mu holds no tensor with elements")
        if {n: t.shape for n, t in mu.items()} != {n: t.shape for n, t in sigma.items()} or mu.keys() - scale.keys():
            raise ConfigError("mu, sigma and scale need the same names, mu and sigma the same shapes")
        self.shapes = {name: tensor.shape for name, tensor in mu.items()}
        self.scale = {name: float(scale[name]) for name in mu}
        self._mu, self._sigma = dict(mu), dict(sigma)
        for name in mu:
            self._check(name)
        self.device = next(iter(mu.values())).device

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Elements of each tensor."""
        return [shape.numel() for shape in self.shapes.values()]

    def subset(self, names: Sequence[str]) -> Plane:
        """The plane of some of the tensors, in the given order."""
        part = Plane.__new__(Plane)
        part.shapes = {name: self.shapes[name] for name in names}
        part.scale = {name: self.scale[name] for name in names}
        part._mu = {name: self._mu[name] for name in names}
        part._sigma = {name: self._sigma[name] for name in names}
        part.device = self.device
        return part

    def pieces(self) -> Iterator[Piece]:
        """All points in flat order."""
        start = 0
        for name, mu in self._mu.items():
            for m, d in zip(mu.reshape(-1).split(CHUNK), self._sigma[name].reshape(-1).split(CHUNK), strict=True):
                yield Piece(start, *_in_units(m, d, self.scale[name]))
                start += m.numel()

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(x, s), each (m,), of the weights with these flat indices, int64 (m,), rising."""
        bounds = torch.tensor([0, *torch.tensor(self.sizes).cumsum(0).tolist()], device=index.device)
        cuts = torch.searchsorted(index, bounds).tolist()
        parts = []
        for position, name in enumerate(self._mu):
            own = index[cuts[position] : cuts[position + 1]] - bounds[position]
            mu, sigma = self._mu[name].reshape(-1)[own], self._sigma[name].reshape(-1)[own]
            parts.append(_in_units(mu, sigma, self.scale[name]))
        x, s = zip(*parts, strict=True)
        return torch.cat(x), torch.cat(s)

    def _check(self, name: str) -> None:
        for what, tensor in (("mu", self._mu[name]), ("sigma", self._sigma[name])):
            total = float(tensor.sum(dtype=torch.float64))
            if not math.isfinite(total):
                raise Diverged(
                    f"{what} of '{name}' is not finite (its sum is {total}): the run that it comes from diverged."
                )
        if self._sigma[name].numel() and float(self._sigma[name].min()) < 0:
            raise ConfigError(f"sigma of '{name}' holds {float(self._sigma[name].min()):.3g}; it must not be negative")
        if not (self.scale[name] > 0 and math.isfinite(self.scale[name])):
            raise ConfigError(f"the scale of '{name}' is {self.scale[name]}; it must be positive and finite")


def standard_deviations(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Biased standard deviation of each tensor, computed in double precision."""
    return {name: float(tensor.double().std(correction=0)) for name, tensor in tensors.items()}


def _in_units(mu: Tensor, sigma: Tensor, r: float) -> tuple[Tensor, Tensor]:
    """(x, s); at least float32, for half precision has no 1e-8."""
    x, s = (part.to(torch.promote_types(part.dtype, torch.float32)) / r for part in (mu, sigma))
    return x, s.clamp_(LOWEST_SIGMA, HIGHEST_SIGMA)
