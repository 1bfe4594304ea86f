"""The tensors of a fit, between the base network and the posterior."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import require_finite
from methods.finetuning.flat import Flat, chunks
from methods.finetuning.points import Points, copy_named, floating
from methods.finetuning.select import Selection
from methods.probabilistic_weight_fixing.fixing import Fixing
from methods.probabilistic_weight_fixing.settings import FixingSettings
from methods.probabilistic_weight_fixing.sigma import initial_sigma

ADVICE = "Look at the run of 'map' that this one starts from, or try a third of lr."


class FixingState:
    """Copies of the base network's tensors; the network itself is never written to.

    weights: what is fixed, flat; `mu` is the same means with views by name. points: everything else.
    """

    def __init__(self, network: nn.Module, selection: Selection, settings: FixingSettings) -> None:
        """
        Raises:
            Diverged: a weight of the network is not finite; names the tensor.
        """
        own = {name: floating(parameter.detach()) for name, parameter in network.named_parameters()}
        self.mu = Flat.copy_of({name: own[name] for name in selection.bayesian})
        self.points = Points(network, selection.trained, selection.frozen)
        _require_finite_tensors(self.mu.views, "the base weights of")
        sigma = torch.cat([initial_sigma(tensor, settings).flatten() for tensor in self.mu.views.values()])
        self.weights = Fixing.of(self.mu.flat, sigma, settings.b)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def sizes(self) -> dict[str, int]:
        """Weights of every tensor, in flat order."""
        return {name: view.numel() for name, view in self.mu.views.items()}

    def mask(self, names: Iterable[str]) -> Tensor:
        """(N,) bool: the weights of these tensors."""
        chosen = set(names)
        pieces = [torch.full((view.numel(),), name in chosen) for name, view in self.mu.views.items()]
        return torch.cat(pieces).to(self.mu.flat.device)

    def require_finite(self) -> None:
        """Raise Diverged when a mean or a deviation is not finite; names the tensor. Waits for the device."""
        sigma = dict(zip(self.mu.views, self.weights.sigma.split(list(self.sizes.values())), strict=True))
        _require_finite_tensors(self.mu.views, "the means of")
        _require_finite_tensors(sigma, "the deviations of")

    def mean(self) -> dict[str, Tensor]:
        """Every parameter and running statistic at its mean; memory of the state."""
        return {**self.points.floats(), **self.mu.views}

    @torch.no_grad()
    def draw(self, out: Flat, generator: torch.Generator) -> dict[str, Tensor]:
        """One sample mu + max(sigma, 0) eps of the weights, written into `out`; the rest as it is."""
        out.flat.normal_(generator=generator)
        for sample, mu, sigma in chunks(out.flat, self.weights.mu, self.weights.sigma):
            torch.addcmul(mu, sample, sigma.clamp(min=0), out=sample)
        return {**self.points.floats(), **out.views}

    def state_dict(self) -> dict[str, Any]:
        weights = self.weights
        return {
            "mu": weights.mu,
            "sigma": weights.sigma,
            "fixed": weights.fixed,
            "code": weights.code,
            "points": self.points.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Copy in place.

        Raises:
            ConfigError: the state is that of another network or another scope.
        """
        weights = self.weights
        weights.code = weights.code.to(saved["code"].dtype)  # wider where codes had to be
        own = {"mu": weights.mu, "sigma": weights.sigma, "fixed": weights.fixed, "code": weights.code}
        copy_named(own, {name: saved[name] for name in own})
        self.points.load_state_dict(saved["points"])


def _require_finite_tensors(tensors: Mapping[str, Tensor], what: str) -> None:
    totals = torch.stack([tensor.sum(dtype=torch.float64) for tensor in tensors.values()]).tolist()
    for name, total in zip(tensors, totals, strict=True):
        require_finite(total, f"the sum of {what} '{name}'", ADVICE)
