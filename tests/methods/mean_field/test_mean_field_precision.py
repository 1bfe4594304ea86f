"""Half precision: what it changes, what it must not, and batches whose gradients overflow."""

from __future__ import annotations

import pytest
import torch
from mean_field_cases import Small, context, network, problem
from small_problems import split
from torch import nn

from benchmark.errors import Interrupted
from methods.finetuning import loop
from methods.finetuning.modes import only_norms_training
from methods.map_finetuned import MapFinetuned
from methods.mean_field import MeanField
from methods.mean_field.adapter import BayesianNetwork
from methods.mean_field.config import Constant
from methods.precision import Precision, resolve

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("estimator", ["shared", "exemplar", "flipout", "local"])
def test_a_step_in_half_precision_is_close_to_one_in_single_and_keeps_float32_weights(estimator, precision):
    data = split(32)
    steps = [Small(network(), estimator=estimator, precision=kind, travel_rate=None) for kind in ("fp32", precision)]
    for step in steps:
        with only_norms_training(step.net, True):
            losses = [float(step(data.inputs, data.labels, t)) for t in range(3)]
        assert step.step.overflown == 0
        assert all(0 < loss < 5 for loss in losses)
    whole, half = (step.tensors() for step in steps)
    for name in whole:
        assert half[name].dtype == whole[name].dtype
    moved = (whole["mu"] - Small(network()).state.mu.flat).norm()
    assert 0 < (whole["mu"] - half["mu"]).norm() < 0.3 * moved


@pytest.mark.parametrize("estimator", ["flipout", "local"])
def test_noise_that_is_smaller_than_fp16_can_square_is_not_lost(estimator):
    net = nn.Linear(64, 8, bias=False)
    bayes = BayesianNetwork(net, l2=1e-4, n_data=1000, estimator=estimator, sigma_init=Constant(value=1e-4))
    with torch.no_grad():
        bayes.mean.weight.zero_()
    inputs = torch.ones(500, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        outputs = torch.cat([bayes(inputs) for _ in range(4)]).float()
    assert float(outputs.square().mean().sqrt()) == pytest.approx(8e-4, rel=0.1)  # 1e-4 times the length of an input


def test_a_loss_scale_that_overflows_leaves_the_step_out_and_shrinks():
    data, net = split(32), network()
    step = Small(net, precision="fp16")
    step.step.load_state_dict({**step.step.state_dict(), "precision": _scaled(2.0**40)})
    before = {name: tensor.detach().clone() for name, tensor in step.tensors().items()}
    with only_norms_training(net, False):
        step(data.inputs, data.labels, 0)
        assert (step.step.overflown, step.step.skipped) == (1, 0)
        assert all(torch.equal(before[name], tensor) for name, tensor in step.tensors().items())
        for t in range(40):
            step(data.inputs, data.labels, t)
    assert 1 < step.step.overflown < 41
    assert not torch.equal(before["mu"], step.tensors()["mu"])


def _scaled(scale: float) -> dict:
    precision = Precision("fp16", CPU)
    return {**precision.state_dict(), "scale": scale}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(
    "method",
    [(MeanField(), {}), (MeanField(), {"estimator": "flipout"}), (MapFinetuned(), {})],
    ids=["shared", "flipout", "point"],
)
def test_stopping_after_any_step_changes_no_bit(tmp_path, method, precision, monkeypatch):
    monkeypatch.setattr(loop, "resolve", lambda asked, device: asked)  # as on a GPU
    method, extra = method
    config = method.Config(**{"epochs": 2, "batch_size": 20, "precision": precision, **extra})

    def fit(folder, **options):
        made = problem()
        ctx = context(folder, made.network, **options)
        try:
            return method.fit(made, ctx, config)
        finally:
            ctx.close()

    expected, posterior, stops = fit(tmp_path / "whole"), None, 0
    while posterior is None:
        try:
            posterior = fit(tmp_path / "parts", stop_requested=lambda: True)
        except Interrupted:
            stops += 1
    assert stops == 6
    assert expected.facts()["precision"] == precision
    found, whole = (
        {**each.mean(), **{f"psi.{name}": psi for name, psi in getattr(each, "log_sd", {}).items()}}
        for each in (posterior, expected)
    )
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_everything_is_single_precision_without_a_gpu():
    assert {resolve(asked, CPU) for asked in ("auto", "fp32", "bf16", "fp16")} == {"fp32"}


def test_noise_that_bf16_rounds_away_is_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(loop, "resolve", lambda asked, device: asked)
    made = problem()
    settings = {"epochs": 1, "sigma_search": False, "sigma_rescale": False, "precision": "bf16"}
    for value, warned in ((1e-3, True), (0.5, False)):
        caplog.clear()
        ctx = context(tmp_path / str(value), made.network)
        MeanField().fit(made, ctx, MeanField.Config(**settings, sigma_init={"kind": "relative_rms", "value": value}))
        ctx.close()
        assert ("bf16 rounds" in caplog.text) is warned
