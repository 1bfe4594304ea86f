"""The training loop: which lengths of epochs are legal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_problems import context_of, problem_of, small_with_token

from methods.training import train


def steps_of(folder, epochs: Any) -> tuple[list[int], int]:
    """(t of every step, epochs ended) of a training on 60 examples in batches of 20."""
    made, seen, ended = problem_of(small_with_token(), small_with_token), [], []
    ctx = context_of("map", folder, None)

    def step(inputs: torch.Tensor, labels: torch.Tensor, t: int) -> float:
        seen.append(t)
        return 0.0

    train(
        made,
        ctx,
        epochs=epochs,
        batch_size=20,
        step=step,
        stateful={},
        after_epoch=lambda epoch, loss: ended.append(epoch),
    )
    ctx.close()
    return seen, len(ended)


def test_epochs_are_whole_or_as_long_as_said(tmp_path):
    assert steps_of(tmp_path / "whole", 2) == ([0, 1, 2, 3, 4, 5], 2)
    assert steps_of(tmp_path / "cut", [0, 2, 3]) == ([0, 1, 2, 3, 4], 3)


@pytest.mark.parametrize("steps", [4, -1])
def test_an_epoch_that_is_longer_than_the_data_is_refused(tmp_path, steps):
    with pytest.raises(ValueError, match=f"epoch 1 has {steps} steps; legal: 0 to 3"):
        steps_of(tmp_path, [3, steps])
