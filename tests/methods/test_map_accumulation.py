"""A batch in parts: the gradient of the whole batch where nothing depends on the batch."""

from __future__ import annotations

import pytest
from map_cases import convolutional, distance, fit


@pytest.mark.parametrize("extra", [{}, {"label_smoothing": 0.1}, {"clip_norm": 0.1}])
def test_training_in_parts_of_unequal_size_is_training_in_one_piece(tmp_path, extra):
    # 40 examples in batches of 14, 13 and 13, in 4 parts of 4 and 3 each. Rounding grows from step to step.
    config = {"batch_size": 14, "optimiser": "sgd", "lr": 0.05, "select": "last", **extra}
    whole = fit(tmp_path / "whole", config)
    parts = fit(tmp_path / "parts", {**config, "accumulate": 4})
    other = fit(tmp_path / "other", {**config, "lr": 0.0501})
    assert 0 < distance(whole, parts) < 1e-6 < distance(whole, other)


def test_more_parts_than_examples_are_parts_of_one(tmp_path):
    config = {"batch_size": 16, "optimiser": "sgd", "lr": 0.05}
    whole = fit(tmp_path / "whole", config, n=3)
    assert distance(whole, fit(tmp_path / "parts", {**config, "accumulate": 16}, n=3)) < 1e-6


def test_statistics_of_batch_norm_are_those_of_a_part(tmp_path):
    config = {"optimiser": "sgd", "lr": 0.05, "select": "last"}
    whole = fit(tmp_path / "whole", config, build=convolutional)
    parts = fit(tmp_path / "parts", {**config, "accumulate": 2}, build=convolutional)
    assert distance(whole, parts) > 1e-3
    assert not whole.weights["1.running_mean"].equal(parts.weights["1.running_mean"])


def test_clipping_bounds_what_a_step_moves(tmp_path):
    # One step of SGD from rest with Nesterov's look-ahead moves by rate * (1 + momentum) * gradient.
    one = {"epochs": 1, "batch_size": 40, "optimiser": "sgd", "lr": 1.0, "weight_decay": 0, "warmup": 0}
    start = fit(tmp_path / "start", {"epochs": 0})
    moved = {}
    for name, clip_norm in (("free", None), ("clipped", 0.01)):
        after = fit(tmp_path / name, {**one, "schedule": "constant", "clip_norm": clip_norm})
        squares = [(after.weights[key] - start.weights[key]).square().sum() for key in start.weights]
        moved[name] = float(sum(squares)) ** 0.5
    assert moved["clipped"] == pytest.approx(0.01 * 1.9, rel=1e-4)
    assert moved["free"] > 0.1
