"""Whole fits: what the posterior is, what the network keeps, what the suite is told, and stopping anywhere."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys

import pytest
import torch
from mean_field_cases import context, network, problem
from pydantic import ValidationError
from small_problems import digits_nlls, split

from benchmark import ConfigError, Context, PointMass, forward, weights_of
from benchmark.errors import Interrupted
from methods.map_finetuned import MapFinetuned
from methods.mean_field import MeanField
from methods.mean_field.rates import Travel

QUICK = {"epochs": 2, "batch_size": 20}


def fit(folder, config=None, *, method=None, facts=None, made=None, **options):
    """A fit on the small problem: (posterior, problem)."""
    method = method or MeanField()
    made = made or problem()
    ctx = context(folder, made.network, facts, **options)
    try:
        return method.fit(made, ctx, method.Config(**(QUICK if config is None else config))), made
    finally:
        ctx.close()


def tensors_of(posterior) -> dict[str, torch.Tensor]:
    gaussians = {f"psi.{name}": psi for name, psi in getattr(posterior, "log_sd", {}).items()}
    return {**posterior.mean(), **gaussians}


def test_a_fit_moves_means_deviations_and_statistics_and_leaves_the_network_alone(tmp_path):
    made = problem()
    made.network.train()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    posterior, _ = fit(tmp_path, made=made)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    assert all(module.training for module in made.network.modules())
    assert all(parameter.grad is None for parameter in made.network.parameters())
    for name, tensor in posterior.mean().items():
        assert not torch.equal(tensor, before[name]), name
        assert not tensor.requires_grad
    assert set(posterior.log_sd) == {"conv.weight", "head.weight"}


@pytest.mark.parametrize("centre", ["zero", "pretrained"])
def test_a_network_in_half_precision_is_fitted_in_single_precision(tmp_path, centre):
    posterior, _ = fit(tmp_path, {**QUICK, "prior_mean": centre}, made=problem(network().half()))
    assert {tensor.dtype for tensor in tensors_of(posterior).values()} == {torch.float32}


def test_facts_are_finite_and_say_what_happened(tmp_path):
    posterior, _ = fit(tmp_path)
    facts = posterior.facts()
    assert all(math.isfinite(value) for value in facts.values() if not isinstance(value, str))
    expected = {
        "estimator": "shared",
        "optimiser": "sgd",
        "l2": 5e-4,
        "l2_assumed": False,
        "n_data": 60,
        "tempered": False,
        "bn": "train",
        "bayesian_weights": 72 + 24,
        "trained_weights": 8 + 8 + 3,
        "frozen_weights": 0,
        "skipped_steps": 0,
        "sigma_init": "relative_rms",
    }
    assert {key: facts[key] for key in expected} == expected
    bound = sum(map(Travel(1.0, 6).rates(), range(6)))
    assert facts["psi_travel_bound"] == pytest.approx(bound)  # the cap on the rate shortens it: 6 steps only
    assert 0 < facts["psi_move"] < 2 * bound  # Adam's step is its rate, up to bias correction
    assert facts["psi_learned"] == (facts["psi_move"] > 0.05)
    psi = torch.cat([psi.flatten() for psi in posterior.log_sd.values()]).double()
    assert facts["psi_mean"] == pytest.approx(float(psi.mean()), abs=1e-5)
    assert facts["psi_end_mean"] + math.log(facts["sigma_rescale"]) == pytest.approx(facts["psi_mean"], abs=1e-5)


def test_the_history_holds_selection_search_and_every_epoch(tmp_path):
    fit(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [record.get("event", record.get("epoch")) for record in records] == ["selection", "sigma_search", 1, 2]
    assert records[0]["bayesian"] == "conv.weight head.weight"
    assert len(records[1]) == 1 + 11
    assert {"train_loss", "kl_over_n", "kl_over_n_matrices", "psi_mean", "skipped_steps"} <= set(records[2])


def test_without_training_the_mean_predicts_exactly_as_the_base_network(tmp_path):
    posterior, made = fit(tmp_path, {"preset": "posthoc"})
    data = split(40, 2)
    made.network.eval()
    with torch.no_grad():
        assert torch.equal(forward(made.network, posterior.mean(), data.inputs), made.network(data.inputs))
    facts = posterior.facts()
    assert facts["psi_move"] == 0
    assert not facts["psi_learned"]
    assert all(len(psi.unique()) == 1 for psi in posterior.log_sd.values())


def test_noise_near_zero_with_fixed_sigma_is_the_companion_s_trajectory(tmp_path):
    silent = {
        **QUICK,
        "sigma_search": False,
        "sigma_rescale": False,
        "sigma_init": {"kind": "uniform_log", "low": -20, "high": -19.9},
        "travel": 0,
    }
    noisy, _ = fit(tmp_path / "a", silent)
    point, _ = fit(tmp_path / "b", method=MapFinetuned())
    assert isinstance(point, PointMass)
    for name, tensor in point.mean().items():
        assert torch.allclose(noisy.mean()[name], tensor, atol=1e-6), name
    assert noisy.facts()["lr"] == point.facts()["lr"] == 1e-2 * 20 / 128


@pytest.mark.parametrize("method", [MeanField(), MapFinetuned()], ids=lambda method: method.name)
@pytest.mark.parametrize("bn", ["train", "reestimate"])
def test_stopping_after_any_step_changes_no_bit(tmp_path, method, bn):
    config = {**QUICK, "bn": bn}
    expected = tensors_of(fit(tmp_path / "whole", config, method=method)[0])
    history = (tmp_path / "whole" / "history.jsonl").read_bytes()
    posterior, stops = None, 0
    while posterior is None:
        try:
            posterior, _ = fit(tmp_path / "parts", config, method=method, stop_requested=lambda: True)
        except Interrupted:
            stops += 1
    assert stops == 6  # two epochs of three steps, stopped after each
    found = tensors_of(posterior)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (tmp_path / "parts" / "history.jsonl").read_bytes() == history


def test_the_facts_of_a_fit_do_not_depend_on_where_it_was_stopped(tmp_path):
    config = {**QUICK, "estimator": "flipout", "select": "all"}
    whole, _ = fit(tmp_path / "whole", config)
    parts = None
    while parts is None:  # the last stop is behind the last step
        with contextlib.suppress(Interrupted):
            parts, _ = fit(tmp_path / "parts", config, stop_requested=lambda: True)
    assert whole.facts()["fallback_ops"] == "batch_norm"
    assert parts.facts() == whole.facts()


def test_a_search_is_not_repeated_when_a_run_goes_on(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        fit(tmp_path, stop_requested=lambda: True)
    from methods.mean_field import starting

    monkeypatch.setattr(starting, "search_sigma", None)
    posterior, _ = fit(tmp_path)
    assert posterior.facts()["sigma_scale"] > 0


@pytest.mark.parametrize(
    ("facts", "optimiser", "l2", "assumed"),
    [
        ({"optimiser": "sgd", "l2": 3e-3}, "sgd", 3e-3, False),
        ({"optimiser": "adamw", "l2": 0.0, "decoupled_weight_decay": 0.05}, "adam", 1e-4, True),
        ({}, "sgd", 1e-4, True),
    ],
)
def test_optimiser_and_prior_come_from_the_base_run(tmp_path, facts, optimiser, l2, assumed):
    found = fit(tmp_path, facts=facts)[0].facts()
    assert (found["optimiser"], found["l2"], found["l2_assumed"]) == (optimiser, l2, assumed)
    assert found["lr"] == pytest.approx((1e-2 if optimiser == "sgd" else 1e-4) * 20 / 128)


def test_settings_reach_the_posterior(tmp_path):
    base = {**QUICK, "sigma_search": False, "sigma_rescale": False, "sigma_init": {"kind": "constant", "value": 0.05}}
    fixed, _ = fit(tmp_path / "a", {**base, "travel": 0})
    assert all((psi == torch.tensor(math.log(0.05))).all() for psi in fixed.log_sd.values())
    assert not fixed.facts()["psi_learned"]
    frozen, made = fit(tmp_path / "b", {**base, "train_rest": False, "select": "head", "bn": "frozen"})
    moved = {name for name, tensor in frozen.mean().items() if not torch.equal(tensor, weights_of(made.network)[name])}
    assert moved == {"head.weight", "head.bias"}
    tempered, _ = fit(tmp_path / "c", {**base, "preset": "tempered", "encoding": "raw"})
    assert tempered.facts()["tempered"]
    assert tempered.facts()["kl_temperature"] == 0.1
    assert tempered.encoding == "raw"
    assert fit(tmp_path / "d", {**base, "n_data": 1000})[0].facts()["tempered"]


def test_a_pretrained_prior_mean_removes_the_pull_to_zero(tmp_path):
    strong = {**QUICK, "sigma_search": False, "sigma_rescale": False, "sigma_init": {"kind": "constant", "value": 1e-4}}
    strong |= {"l2": 5.0, "travel": 0, "clamp": False}
    base = weights_of(network())["conv.weight"]
    zero, pretrained = (
        fit(tmp_path / mean, {**strong, "prior_mean": mean})[0].mean()["conv.weight"] for mean in ("zero", "pretrained")
    )
    assert zero.norm() < 0.999 * base.norm()
    assert (pretrained - base).norm() < 0.2 * (zero - base).norm()


def test_micro_batches_are_not_used_where_they_would_change_batch_statistics(tmp_path):
    sizes = []
    made = problem()
    norm = made.network.norm
    norm.register_forward_pre_hook(lambda norm, args: sizes.append(len(args[0])) if norm.training else None)
    fit(tmp_path, {**QUICK, "bn": "train"}, made=made, micro_batch=7)
    assert sizes
    assert min(sizes) > 7


def test_micro_batches_are_honoured_with_frozen_statistics(tmp_path):
    sizes = []
    made = problem()
    made.network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    posterior, _ = fit(tmp_path, {**QUICK, "bn": "frozen"}, made=made, micro_batch=7)
    assert max(size for size in sizes if size != 16) <= 7  # 16: the check that replaced weights matter
    assert posterior.facts()["bn"] == "frozen"


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"sigma_init": {"kind": "uniform_log"}}, ("sigma_search", "sigma_init")),
        ({"sigma_init": {"kind": "relative_abs"}}, ("sigma_search", "sigma_init")),
        ({"sigma_init": {"kind": "constant", "value": 0.1}}, ("sigma_search", "sigma_init.value")),
        ({"sigma_search": False}, ("sigma_search", "sigma_init.value")),
        ({"epochs": 0, "sigma_search": False}, ("epochs", "sigma_search")),
        ({"l2": 0}, ("l2",)),
        ({"n_data": 0}, ("n_data",)),
        ({"select": {"include": ["("]}}, ("include",)),
        ({"sigma_init": {"kind": "uniform_log", "low": -5, "high": -6}, "sigma_search": False}, ("low", "high")),
        ({"preset": "posthok"}, ("posthoc",)),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_by_name(config, fields):
    with pytest.raises(ValidationError) as error:
        MeanField.Config(**config)
    assert all(field in str(error.value) for field in fields)


def test_the_companion_needs_an_epoch_and_shares_the_schedule():
    with pytest.raises(ValidationError, match="epochs"):
        MapFinetuned.Config(epochs=0)
    shared, own = MeanField.Config().identity(), MapFinetuned.Config().identity()
    assert own == {key: shared[key] for key in own}


@pytest.mark.parametrize("setting", ["sigma_search", "sigma_rescale"])
def test_a_search_without_validation_data_says_how_to_get_some(tmp_path, setting):
    config = (
        {**QUICK, "sigma_rescale": False}
        if setting == "sigma_search"
        else {**QUICK, "sigma_search": False, "sigma_init": {"kind": "constant", "value": 0.1}}
    )
    with pytest.raises(ConfigError, match=rf"{setting}.*no validation split"):
        fit(tmp_path, config, made=problem(val=None))


def test_a_fit_without_base_run_is_refused(tmp_path):
    made = problem()
    ctx = Context(tmp_path, ("made_up", "small", "mean_field", 0))
    with pytest.raises(ConfigError, match="base run"):
        MeanField().fit(made, ctx, MeanField.Config())


def test_both_methods_start_from_map_and_name_their_posterior():
    for method in (MeanField(), MapFinetuned()):
        assert [need.method for need in method.needs(method.Config())] == ["map"]
    assert MapFinetuned().posterior_type() is PointMass
    assert MeanField().posterior_type().__name__ == "GaussianPosterior"


def test_declaring_the_methods_imports_no_torch():
    code = "import sys, methods.mean_field as m; m.MeanField.Config(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits_keep_their_likelihood_through_fit_and_bytes(tmp_path):
    base, fitted, decoded = digits_nlls(tmp_path, MeanField(), MeanField.Config(epochs=6), base_epochs=8)
    assert decoded <= base + 0.005
    assert abs(decoded - fitted) < 0.01
