"""Half precision in training from initialisation: what it changes, what it must not, and gradients that overflow."""

from __future__ import annotations

import pytest
import torch
from map_cases import convolutional, distance, fit, problem, same

from benchmark.errors import Diverged
from methods.map import step as step_module
from methods.map.config import MapConfig
from methods.map.recipe import recipe_for
from methods.map.step import Step
from methods.precision import Precision

CPU = torch.device("cpu")
SGD = {"optimiser": "sgd", "lr": 0.05}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Half precision runs, on the CPU."""
    monkeypatch.setattr(step_module, "resolve", lambda asked, device: asked)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_training_in_half_precision_ends_near_training_in_single_with_float32_weights(tmp_path, precision):
    start = fit(tmp_path / "start", {"epochs": 0}, build=convolutional)
    whole = fit(tmp_path / "whole", SGD, build=convolutional)
    half = fit(tmp_path / "half", {**SGD, "precision": precision}, build=convolutional)
    assert {weight.dtype for weight in half.weights.values()} == {torch.float32}
    assert 0 < distance(whole, half) < 0.1 * distance(whole, start)
    assert half.facts()["precision"] == precision
    assert half.facts().get("skipped_steps") == (0 if precision == "fp16" else None)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_steps_whose_gradients_overflow_are_left_out_and_counted_until_the_scale_has_shrunk():
    net, data, config = convolutional(), problem(augment=None).train, MapConfig(precision="fp16", **SGD)
    step = Step(net, recipe_for(net, config), config, CPU, steps=50, mixing_seed=0)
    scaled = {**Precision("fp16", CPU).state_dict(), "scale": 2.0**40}
    step.load_state_dict({**step.state_dict(), "precision": scaled})
    before = [weight.detach().clone() for weight in net.parameters()]
    step(data.inputs, data.labels, 0)
    assert step.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    for t in range(1, 50):
        step(data.inputs, data.labels, t)
    assert 1 < step.skipped < 50
    assert not torch.equal(before[0], next(net.parameters()))
    assert all(bool(weight.isfinite().all()) for weight in net.parameters())


@pytest.mark.usefixtures("as_on_a_gpu")
def test_clipping_sees_gradients_without_the_loss_scale(tmp_path):
    one = {**SGD, "epochs": 1, "batch_size": 40, "lr": 1.0, "weight_decay": 0, "warmup": 0, "schedule": "constant"}
    start = fit(tmp_path / "start", {"epochs": 0})
    after = fit(tmp_path / "half", {**one, "precision": "fp16", "clip_norm": 0.01})
    squares = [(after.weights[key] - start.weights[key]).square().sum() for key in start.weights]
    assert float(sum(squares)) ** 0.5 == pytest.approx(0.01 * 1.9, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_without_a_gpu_the_setting_changes_no_bit_and_the_facts_say_fp32(tmp_path, precision):
    plain = fit(tmp_path / "plain", SGD, build=convolutional)
    asked = fit(tmp_path / "asked", {**SGD, "precision": precision}, build=convolutional)
    assert same(plain, asked)
    assert asked.facts()["precision"] == "fp32"
    assert "precision" not in plain.facts()


def poisoned(examples: int):
    """Inputs of which so many overflow in the forward pass of half precision, whatever the weights are."""

    def augment(inputs, generator):
        hot = torch.arange(len(inputs)) < examples
        return torch.where(hot.view(-1, 1, 1, 1) & (torch.rand((), generator=generator) < 0.4), 1e30, inputs)

    return augment if examples == 1 else lambda inputs, generator: torch.full_like(inputs, 1e30)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_step_whose_forward_pass_overflows_is_left_out_and_the_training_goes_on(tmp_path):
    fitted = fit(tmp_path, {**SGD, "precision": "fp16", "epochs": 6}, augment=poisoned(1))
    skipped = fitted.facts()["skipped_steps"]
    assert isinstance(skipped, int)
    assert 0 < skipped < 18
    assert all(bool(weight.isfinite().all()) for weight in fitted.weights.values())


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_training_of_which_every_step_overflows_has_diverged(tmp_path):
    with pytest.raises(Diverged, match="every step of epoch 1 overflowed in fp16"):
        fit(tmp_path, {**SGD, "precision": "fp16"}, augment=poisoned(16))
