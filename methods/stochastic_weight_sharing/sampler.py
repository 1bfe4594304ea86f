"""From Gaussians to weights and, for a gradient with respect to the weights, back.

With w = r x and G = d loss / d w, the gradients of codewords are sums over the members,
    independent, x_i = a + b eps_i:   d/d a = sum r_i G_i,   d/d ln b = b sum r_i G_i eps_i = sum G_i (w_i - r_i a)
    tied, x_i = z:                    d/d z = sum r_i G_i
(reparameterisation, Blundell et al. 2015, summed over those who share): neither the noise nor a graph over the weights
is kept. The sums are in double precision, since the members are millions. What belongs to single weights and to
codewords is left to autograd, which sees |O| + |E| + K numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.finetuning.flat import Flat
from methods.stochastic_weight_sharing.gaussians import SharedGaussians
from methods.stochastic_weight_sharing.sharing.ellipses import mixture_moments

Sampling = Literal["independent", "tied"]


@dataclass(frozen=True)
class Sources:
    """What a draw was made of, differentiable with respect to the trained numbers.

    codewords: (a, ln b), or (z,), each (K,). outliers (|O|,), ellipses (|E|,): those weights themselves.
    """

    codewords: tuple[Tensor, ...]
    outliers: Tensor
    ellipses: Tensor


class Sampler(ABC):
    """How the weights of a cluster vary together."""

    def __init__(self, gaussians: SharedGaussians) -> None:
        self.gaussians = gaussians

    @abstractmethod
    def draw(self, sample: Flat, generator: torch.Generator) -> Sources:
        """Fill `sample` with a draw, by a generator on its device. Gradients flow into what is returned alone."""

    @abstractmethod
    def codeword_gradients(self, sample: Flat, gradients: Mapping[str, Tensor]) -> list[Tensor]:
        """d loss / d codewords, one (K,) for each of `Sources.codewords`, from d loss / d w by name."""

    @abstractmethod
    def ellipse_moments(self, a: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (|E|,) of x of the ellipse points, from a and b^2 (K,) of the clusters."""

    @torch.no_grad()
    def moments(self) -> tuple[Flat, Flat]:
        """Mean and standard deviation of every weight, in the codebook's dtype."""
        g, labelling = self.gaussians, self.gaussians.labelling
        mean, sd = g.memory(), g.memory()
        a, log_b = g.codebook.marginals()
        centre, variance = self.ellipse_moments(a, (2 * log_b).exp())
        r = labelling.ellipse_scale.to(a.dtype)
        for memory, table, own, blended in (
            (mean, a, g.outlier_mean, centre * r),
            (sd, log_b.exp(), g.outlier_log_sd.exp(), variance.sqrt() * r),
        ):
            labelling.place(memory, table)
            self._set_own(memory, own, blended)
        return mean, sd

    def drawing(self) -> Callable[[torch.Generator], Mapping[str, Tensor]]:
        """A function that draws the weights, by name, always into the same memory."""
        sample = self.gaussians.memory()

        @torch.no_grad()
        def draw(generator: torch.Generator) -> Mapping[str, Tensor]:
            self.draw(sample, generator)
            return sample.views

        return draw

    def _outliers(self, noise: Tensor) -> Tensor:
        return self.gaussians.outlier_mean + self.gaussians.outlier_log_sd.exp() * noise

    def _of_both(self, table: Tensor) -> tuple[Tensor, Tensor]:
        labelling = self.gaussians.labelling
        return table.index_select(0, labelling.first), table.index_select(0, labelling.blend.second)

    def _set_own(self, sample: Flat, outliers: Tensor, ellipses: Tensor) -> None:
        labelling = self.gaussians.labelling
        sample.flat.index_copy_(0, labelling.outlier_index, outliers)
        sample.flat.index_copy_(0, labelling.blend.index, ellipses)


class Independent(Sampler):
    """Every weight has noise of its own; an ellipse point is Gaussian with the moments of its mixture."""

    def draw(self, sample: Flat, generator: torch.Generator) -> Sources:
        labelling, codebook = self.gaussians.labelling, self.gaussians.codebook
        a, log_b = codebook.marginals()
        with torch.no_grad():
            sample.flat.normal_(generator=generator)
            outlier_noise = sample.flat.index_select(0, labelling.outlier_index)
            ellipse_noise = sample.flat.index_select(0, labelling.blend.index)
            labelling.perturb(sample, a, log_b.exp())
        outliers = self._outliers(outlier_noise)
        mean, variance = self.ellipse_moments(a, (2 * log_b).exp())
        ellipses = labelling.ellipse_scale.to(a.dtype) * (mean + variance.sqrt() * ellipse_noise)
        with torch.no_grad():
            self._set_own(sample, outliers, ellipses)
        return Sources((a, log_b), outliers, ellipses)

    @torch.no_grad()
    def codeword_gradients(self, sample: Flat, gradients: Mapping[str, Tensor]) -> list[Tensor]:
        labelling, codebook = self.gaussians.labelling, self.gaussians.codebook
        by_a, by_w = torch.zeros(2, labelling.components + 1, dtype=torch.float64, device=sample.flat.device)
        for r, symbols, (gradient, weight) in labelling.pieces(gradients, sample.views):
            exact = gradient.double()
            by_a.index_add_(0, symbols, exact, alpha=r)
            by_w.index_add_(0, symbols, exact * weight)
        a, _ = codebook.marginals()
        return [by_a[:-1].to(a.dtype), (by_w[:-1] - a * by_a[:-1]).to(a.dtype)]

    def ellipse_moments(self, a: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        (a1, a2), (variance1, variance2) = self._of_both(a), self._of_both(variance)
        return mixture_moments(self.gaussians.labelling.blend.alpha.to(a.dtype), a1, variance1, a2, variance2)


class Tied(Sampler):
    """All members of a cluster take the value of one draw; an ellipse point that of two, weighted by its shares."""

    def draw(self, sample: Flat, generator: torch.Generator) -> Sources:
        g, labelling = self.gaussians, self.gaussians.labelling
        room = g.codebook.table.new_empty(g.codebook.noise_rows, len(g.codebook))
        z = g.codebook.shared_draws(room.normal_(generator=generator))
        outliers = self._outliers(torch.empty_like(g.outlier_mean).normal_(generator=generator))
        alpha = labelling.blend.alpha.to(z.dtype)
        first, second = self._of_both(z)
        ellipses = labelling.ellipse_scale.to(z.dtype) * (alpha * first + (1 - alpha) * second)
        with torch.no_grad():
            labelling.place(sample, z)
            self._set_own(sample, outliers, ellipses)
        return Sources((z,), outliers, ellipses)

    @torch.no_grad()
    def codeword_gradients(self, sample: Flat, gradients: Mapping[str, Tensor]) -> list[Tensor]:
        labelling = self.gaussians.labelling
        by_z = torch.zeros(labelling.components + 1, dtype=torch.float64, device=sample.flat.device)
        for r, symbols, (gradient,) in labelling.pieces(gradients):
            by_z.index_add_(0, symbols, gradient.double(), alpha=r)
        return [by_z[:-1].to(sample.flat.dtype)]

    def ellipse_moments(self, a: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.gaussians.labelling.blend.alpha.to(a.dtype)
        (a1, a2), (variance1, variance2) = self._of_both(a), self._of_both(variance)
        return alpha * a1 + (1 - alpha) * a2, alpha.square() * variance1 + (1 - alpha).square() * variance2


SAMPLERS: dict[Sampling, type[Independent] | type[Tied]] = {"independent": Independent, "tied": Tied}
