"""Training with everything on: stopped after any step and resumed, it is the training that was never stopped."""

from __future__ import annotations

import pytest
from map_cases import convolutional, fit, fit_in_pieces, same

from methods.map import step as step_module

EVERYTHING = {
    "accumulate": 2,
    "mixup": 0.8,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "ema": 0.8,
    "clip_norm": 0.5,
    "min_lr": 0.1,
}


@pytest.mark.parametrize(
    "config",
    [
        {"precision": "fp16", "optimiser": "sgd"},
        {"precision": "bf16", "optimiser": "adamw", "select": "last"},
        {"optimiser": "sgd", "member": 1, "patience": 1},
    ],
)
def test_stopping_after_any_step_changes_no_bit(tmp_path, config, monkeypatch):
    monkeypatch.setattr(step_module, "resolve", lambda asked, device: asked)  # as on a GPU
    settings = {**EVERYTHING, **config}
    whole = fit(tmp_path / "whole", settings, build=convolutional)
    pieces, stops = fit_in_pieces(tmp_path / "pieces", settings, build=convolutional)
    assert stops == 3 * whole.facts()["epochs_run"]  # after every step, 40 examples in batches of 16
    assert same(whole, pieces)
    assert whole.facts() == pieces.facts()
    histories = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "pieces")]
    assert histories[0] == histories[1]
