"""The tensors of a fit, between the base network and the posterior."""

from __future__ import annotations

from typing import Any

from torch import nn

from methods.finetuning.flat import Flat
from methods.finetuning.points import Points, copy_named, floating
from methods.finetuning.select import Selection


class MeanFieldState:
    """Copies of the base network's tensors; the network itself is never written to.

    mu, psi: means and log standard deviations of the Bayesian parameters, flat with views by name.
    points: everything that has no distribution.
    """

    def __init__(self, network: nn.Module, selection: Selection) -> None:
        own = {name: floating(parameter.detach()) for name, parameter in network.named_parameters()}
        self.mu = Flat.copy_of({name: own[name] for name in selection.bayesian})
        self.psi = Flat.like(self.mu)
        self.psi.flat.zero_()
        self.points = Points(network, selection.trained, selection.frozen)

    def state_dict(self) -> dict[str, Any]:
        return {"mu": self.mu.flat, "psi": self.psi.flat, "points": self.points.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy in place.

        Raises:
            ConfigError: the state is that of another network or selection.
        """
        own = {"mu": self.mu.flat, "psi": self.psi.flat}
        copy_named(own, {name: state[name] for name in own})
        self.points.load_state_dict(state["points"])
