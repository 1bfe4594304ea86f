"""Which epoch's weights are kept: the one of lowest validation NLL, or the last. Epochs count from 1."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from benchmark import copy_of, load_into, weights_of
from methods.map.evaluation import Evaluation


class LastEpoch:
    """Keeps the weights that training ends with."""

    def __init__(self) -> None:
        self.epoch = 0
        self.evaluation: Evaluation | None = None

    def see(self, epoch: int, evaluation: Evaluation | None, network: nn.Module) -> None:
        """Called after every epoch; `evaluation` is None without a validation split."""
        self.epoch, self.evaluation = epoch, evaluation

    def restore(self, network: nn.Module) -> None:
        """Put the kept weights into the network."""

    def state_dict(self) -> dict[str, Any]:
        found = self.evaluation
        return {"epoch": self.epoch, "evaluation": None if found is None else [found.nll, found.accuracy]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.evaluation = None if state["evaluation"] is None else Evaluation(*state["evaluation"])


class BestEpoch(LastEpoch):
    """Keeps a copy of the weights of the lowest validation NLL so far; of equal epochs the first."""

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[str, Tensor] = {}

    def see(self, epoch: int, evaluation: Evaluation | None, network: nn.Module) -> None:
        if evaluation is not None and (self.evaluation is None or evaluation.nll < self.evaluation.nll):
            super().see(epoch, evaluation, network)
            self._weights = copy_of(weights_of(network))

    def restore(self, network: nn.Module) -> None:
        load_into(network, self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._weights = state["weights"]
