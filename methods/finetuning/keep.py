"""The epoch that is kept: of lowest validation NLL, the start of the training included."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark import Fact, Problem, Split
from methods.training import Stateful

log = logging.getLogger("bnnbench")


def keeper(
    problem: Problem, keep: Literal["last", "best"], state: Stateful, nll: Callable[[Split], float]
) -> BestEpoch | None:
    """What keeps the best epoch; None where the last one is kept: as asked, or for want of validation data.

    nll: validates `state` as it stands on the validation split.
    """
    if keep == "best" and problem.val is None:
        log.warning("There are no validation data to choose an epoch by: the last one is kept.")
    if keep == "last" or problem.val is None:
        return None
    return BestEpoch(state, partial(nll, problem.val))


class BestEpoch:
    """Keeps a copy of `state` as it was after the epoch of lowest `nll`, of equal ones the first. Part of checkpoints.

    nll: validates `state` as it stands; the same noise at every call makes epochs comparable. An NLL that is not
    finite is never the lowest.
    """

    def __init__(self, state: Stateful, nll: Callable[[], float]) -> None:
        self._state, self._nll = state, nll
        self._kept: Any = None
        self.epoch = -1
        self.lowest = math.inf

    def see(self, epoch: int) -> float:
        """Look at the state after `epoch`, 0 being before the first step; its NLL."""
        nll = self._nll()
        if self._kept is None or nll < self.lowest:
            self.epoch, self.lowest = epoch, nll if math.isfinite(nll) else math.inf
            self._kept = _copied(self._state.state_dict())
        return nll

    def restore(self) -> None:
        """Put the kept copy into the state."""
        self._state.load_state_dict(self._kept)

    def facts(self) -> dict[str, Fact]:
        """keep, epoch_kept, val_nll_kept."""
        return {"keep": "best", "epoch_kept": self.epoch, "val_nll_kept": self.lowest}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "lowest": self.lowest, "kept": self._kept}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.epoch, self.lowest, self._kept = saved["epoch"], saved["lowest"], saved["kept"]


@torch.no_grad()
def _copied(tree: Any) -> Any:
    """A deep copy of a state: dicts and lists of tensors and plain values."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree
