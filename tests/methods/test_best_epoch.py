"""The epoch that is kept: a copy, of lowest validation NLL."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from methods.finetuning.keep import BestEpoch


class State:
    """One tensor that training overwrites in place, and a list."""

    def __init__(self) -> None:
        self.weight = torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "more": [self.weight, 1]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.weight.copy_(saved["weight"])


def kept_of(scores: list[float], saved_after: int | None = None) -> tuple[BestEpoch, State]:
    """`see` once per score; the weight is the number of the epoch. saved_after: there, a new one takes over."""
    state = State()
    found = iter(scores)
    best = BestEpoch(state, lambda: next(found))
    for epoch in range(len(scores)):
        state.weight.fill_(epoch)
        best.see(epoch)
        if epoch == saved_after:
            saved = best.state_dict()
            best = BestEpoch(state, lambda: next(found))
            best.load_state_dict(saved)
    best.restore()
    return best, state


@pytest.mark.parametrize("saved_after", [None, 0, 2])
@pytest.mark.parametrize(
    ("scores", "epoch"),
    [
        ([0.5, 0.3, 0.4], 1),
        ([0.3, 0.3, 0.4], 0),
        ([0.5, math.nan, 0.4], 2),
        ([math.nan, 0.7, 0.8], 1),
        ([math.inf, math.nan, math.inf], 0),
    ],
)
def test_the_first_epoch_of_lowest_finite_nll_comes_back(scores, epoch, saved_after):
    best, state = kept_of(scores, saved_after)
    assert state.weight.tolist() == [epoch, epoch]
    lowest = scores[epoch] if math.isfinite(scores[epoch]) else math.inf
    assert best.facts() == {"keep": "best", "epoch_kept": epoch, "val_nll_kept": lowest}
