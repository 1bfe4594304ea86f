"""What a method is lent: generators, history, progress; and interrupted and resumed equals uninterrupted."""

from __future__ import annotations

import functools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.context import Context, require_finite
from benchmark.errors import Diverged, Interrupted
from benchmark.seeds import seed_from

COMPONENTS = ("digits", "mlp-8", "toy", 0)
STEPS = 12


def context(folder: Path, **settings: Any) -> Context:
    return Context(folder, COMPONENTS, **{"checkpoint_seconds": 0.0, **settings})


def global_draws() -> list[float]:
    """One draw of every global generator; `gauss` and `randn` hold a spare normal as part of their states."""
    return [
        random.random(),
        random.gauss(),
        float(np.random.rand()),  # noqa: NPY002
        float(np.random.randn()),  # noqa: NPY002
        float(torch.rand(())),
        float(torch.randn(())),
    ]


def fit(ctx: Context, stop_after: int | None = None) -> list[float]:
    """A toy method whose result depends on every generator there is. Its state is its step and its weights.

    Dies without a word after `stop_after` steps, as a killed process would.
    """
    step, weights = 0, [0.0]
    early = ctx.generator("early")
    saved = ctx.checkpoint.load()
    if saved is not None:
        step, weights = saved["step"], saved["weights"]
    while step < STEPS:
        noise = [*global_draws(), float(torch.rand((), generator=early))]
        if step >= 5:
            noise.append(float(torch.rand((), generator=ctx.generator("late"))))
        weights = [*weights, weights[-1] / 2 + sum(noise)]
        step += 1
        ctx.log(step=step, weight=weights[-1])
        ctx.progress(step, STEPS)
        if step == stop_after:
            raise ConnectionError
        if step % 3 == 0:
            ctx.checkpoint.offer(functools.partial(dict, step=step, weights=weights))
    ctx.close()
    return weights


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("killed_after", [(1,), (3,), (4,), (7,), (11,), (4, 5, 8), (10, 10, 10)])
def test_killed_and_resumed_equals_uninterrupted_in_result_history_and_generators(tmp_path, killed_after):
    expected = fit(context(tmp_path / "whole"))
    afterwards = global_draws()
    for stop in killed_after:
        with pytest.raises(ConnectionError):
            fit(context(tmp_path / "torn"), stop)
        global_draws()  # whatever else happened in between
    assert fit(context(tmp_path / "torn")) == expected
    assert global_draws() == afterwards
    assert history(tmp_path / "torn") == history(tmp_path / "whole")
    assert [record["step"] for record in history(tmp_path / "torn")] == list(range(1, STEPS + 1))


def test_stopped_on_request_and_resumed_equals_uninterrupted(tmp_path):
    expected = fit(context(tmp_path / "whole"))
    for stops in range(4):
        with pytest.raises(Interrupted):
            fit(context(tmp_path / "torn", checkpoint_seconds=1000, stop_requested=lambda: True))
        assert len(history(tmp_path / "torn")) == 3 * (stops + 1)
    assert fit(context(tmp_path / "torn")) == expected
    assert history(tmp_path / "torn") == history(tmp_path / "whole")


def test_runs_of_other_components_draw_other_numbers(tmp_path):
    results = [fit(Context(tmp_path / str(i), ("digits", "mlp-8", "toy", i))) for i in range(3)]
    assert len({result[-1] for result in results}) == 3


def test_a_seed_is_hashed_from_the_run_and_the_purpose(tmp_path):
    ctx = context(tmp_path)
    assert ctx.seed_for("order", 3) == seed_from(*COMPONENTS, "order", 3)
    assert ctx.generator("order").initial_seed() == ctx.seed_for("order")


def test_a_generator_is_one_per_purpose_and_independent_of_the_others(tmp_path):
    ctx = context(tmp_path)
    assert ctx.generator("a") is ctx.generator("a")
    first = torch.rand(3, generator=ctx.generator("a"))
    other = context(tmp_path / "other")
    torch.rand(100, generator=other.generator("b"))
    assert torch.rand(3, generator=other.generator("a")).equal(first)
    assert not torch.rand(3, generator=ctx.generator("b")).equal(first)


def test_a_generator_that_is_not_used_after_a_resume_keeps_its_state_for_the_next_one(tmp_path):
    ctx = context(tmp_path)
    torch.rand(5, generator=ctx.generator("rare"))
    ctx.checkpoint.offer(dict)
    second = context(tmp_path)
    second.checkpoint.load()
    second.checkpoint.offer(dict)
    third = context(tmp_path)
    third.checkpoint.load()
    assert torch.rand(3, generator=third.generator("rare")).equal(torch.rand(3, generator=ctx.generator("rare")))


def test_loading_at_a_first_start_changes_no_generator(tmp_path):
    ctx = context(tmp_path)
    assert ctx.checkpoint.load() is None
    loaded = global_draws()
    context(tmp_path)
    assert global_draws() == loaded


def test_a_fresh_start_replaces_the_history_of_an_attempt_without_a_checkpoint(tmp_path):
    ctx = context(tmp_path)
    ctx.log(step=1)
    ctx.log(step=2)
    ctx.close()
    ctx = context(tmp_path)
    ctx.log(step=10)
    ctx.close()
    assert history(tmp_path) == [{"step": 10}]


def test_a_history_with_numbers_that_json_lacks_stays_readable(tmp_path):
    ctx = context(tmp_path)
    ctx.log(loss=math.nan, best=-math.inf, note="diverging", step=1)
    ctx.close()
    assert history(tmp_path) == [{"loss": "nan", "best": "-inf", "note": "diverging", "step": 1}]


def test_progress_is_throttled_but_the_end_is_always_told(tmp_path):
    told: list[dict[str, float]] = []
    ctx = context(tmp_path, on_progress=told.append)
    for step in range(1, 2001):
        ctx.progress(step, 2000, loss=1 / step)
    assert told[0] == {"done": 1, "total": 2000, "loss": 1.0}
    assert told[-1] == {"done": 2000, "total": 2000, "loss": 1 / 2000}
    assert len(told) <= 10


def test_before_save_runs_before_the_state_is_on_disk(tmp_path):
    seen = []
    ctx = context(tmp_path, before_save=lambda: seen.append((tmp_path / "checkpoint").exists()))
    ctx.checkpoint.offer(dict)
    assert seen == [False]
    assert (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_a_divergence_with_advice(value):
    with pytest.raises(Diverged, match=f"^the loss is {value}. Lower the rate.$"):
        require_finite(value, "the loss", "Lower the rate.")
    require_finite(1e308, "the loss", "")
