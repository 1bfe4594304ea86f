"""The tensors of a fit, between the base network and the posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import require_finite
from methods.finetuning.flat import Flat, chunks
from methods.finetuning.points import Points, copy_named, floating
from methods.finetuning.select import Selection
from methods.fixed_weights.fixing import Fixing
from methods.fixed_weights.grid import check_magnitudes, place

ADVICE = "Look at the run of 'map' that this one starts from, or try a third of lr."


class FixingState:
    """Copies of the base network's tensors; the network itself is never written to.

    weights: what is fixed, flat; `mu` is the same means with views by name. points: everything else.
    """

    def __init__(
        self,
        network: nn.Module,
        selection: Selection,
        b: int,
        *,
        initial_sigma: Callable[[Tensor], Tensor] | None = None,
        code_dtype: torch.dtype = torch.int16,
    ) -> None:
        """initial_sigma: of one tensor, float32 and of its shape; None: weights are points. code_dtype: see `Fixing`.

        Raises:
            Diverged: a weight of the network is not finite; names the tensor.
        """
        own = {name: floating(parameter.detach()) for name, parameter in network.named_parameters()}
        self.mu = Flat.copy_of({name: own[name] for name in selection.bayesian})
        self.points = Points(network, selection.trained, selection.frozen)
        _require_finite_tensors(self.mu.views, "the base weights of")
        sigma = None
        if initial_sigma is not None:
            sigma = torch.cat([initial_sigma(tensor).flatten() for tensor in self.mu.views.values()])
        self.weights = Fixing.of(self.mu.flat, sigma, b, code_dtype)

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

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Name -> the part of flat (N,) that belongs to the tensor, flat."""
        return dict(zip(self.mu.views, flat.split(list(self.sizes.values())), strict=True))

    def shaped(self, flat: Tensor) -> dict[str, Tensor]:
        """Name -> view of the part of flat (N,) that belongs to the tensor, of its shape."""
        return {name: piece.view(self.mu.views[name].shape) for name, piece in self.split(flat).items()}

    def require_finite(self) -> None:
        """Raise Diverged when a mean or a deviation is not finite; names the tensor. Waits for the device."""
        _require_finite_tensors(self.mu.views, "the means of")
        if self.weights.sigma is not None:
            _require_finite_tensors(self.split(self.weights.sigma), "the deviations of")

    def require_legal_sizes(self, most: int, remedy: Callable[[int], str]) -> None:
        """Raise ConfigError when a weight is too large for the grid; see `check_magnitudes`."""
        flat, sizes = self.mu.flat.detach(), self.sizes
        check_magnitudes(flat, self.weights.b, most=most, where=lambda index: place(index, sizes), remedy=remedy)

    def mean(self) -> dict[str, Tensor]:
        """Every parameter and running statistic at its mean; memory of the state."""
        return {**self.points.floats(), **self.mu.views}

    @torch.no_grad()
    def draw(self, out: Flat, generator: torch.Generator) -> dict[str, Tensor]:
        """One sample mu + max(sigma, 0) eps of the weights, written into `out`; the rest as it is. Not of points."""
        out.flat.normal_(generator=generator)
        for sample, mu, sigma in chunks(out.flat, self.weights.mu, self.weights.deviations):
            torch.addcmul(mu, sample, sigma.clamp(min=0), out=sample)
        return {**self.points.floats(), **out.views}

    def state_dict(self) -> dict[str, Any]:
        return {**self._tensors(), "points": self.points.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Copy in place.

        Raises:
            ConfigError: the state is that of another network or another scope.
        """
        self.weights.code = self.weights.code.to(saved["code"].dtype)  # wider where codes had to be
        copy_named(self._tensors(), {name: tensor for name, tensor in saved.items() if name != "points"})
        self.points.load_state_dict(saved["points"])

    def _tensors(self) -> dict[str, Tensor]:
        weights = self.weights
        sigma = {} if weights.sigma is None else {"sigma": weights.sigma}
        return {"mu": weights.mu, **sigma, "fixed": weights.fixed, "code": weights.code}


def _require_finite_tensors(tensors: Mapping[str, Tensor], what: str) -> None:
    totals = torch.stack([tensor.sum(dtype=torch.float64) for tensor in tensors.values()]).tolist()
    for name, total in zip(tensors, totals, strict=True):
        require_finite(total, f"the sum of {what} '{name}'", ADVICE)
