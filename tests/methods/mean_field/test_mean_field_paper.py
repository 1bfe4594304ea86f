"""The published recipe: its trajectories, its presets, and how little its psi moves."""

from __future__ import annotations

import math

import pytest
import torch
from mean_field_cases import context, double, oracle, oracle_of, problem
from pydantic import ValidationError
from torch import nn

from benchmark.metrics.ece import calibration_error
from methods.finetuning.descent import Descent, PointDescent
from methods.finetuning.flat import Flat
from methods.finetuning.loop import Schedule
from methods.finetuning.select import select
from methods.finetuning.step import Step
from methods.map_temperature.scale import fit_scale
from methods.mean_field import MeanField
from methods.mean_field.config import MeanFieldConfig
from methods.mean_field.estimators.exemplar import Exemplar
from methods.mean_field.estimators.ruled import GaussianRule, Ruled
from methods.mean_field.learner import MeanFieldLearner
from methods.mean_field.presets import PRESETS
from methods.mean_field.prior import Prior
from methods.mean_field.rates import log_sd_rates, travel_bound
from methods.mean_field.state import MeanFieldState
from methods.optimisers import Group, Sgd
from methods.precision import Precision


@pytest.mark.parametrize("identifier", ["paper_v2_steps", "demo_double_decay_steps"])
def test_two_steps_of_the_published_recipe_follow_the_oracle(identifier, monkeypatch):
    case = oracle_of(identifier)
    given = case["inputs"]
    net = nn.Linear(3, 2).double()
    state = MeanFieldState(net, select(net, "all", train_rest=True))
    for name in ("weight", "bias"):
        state.mu.views[name].copy_(double(given["params"][f"{name}_mu"]))
        state.psi.views[name].copy_(double(given["params"][f"{name}_psi"]))
    noise = {"weight": double(given["eps_w_each_step"]), "bias": double(given["eps_b_each_step"])}
    monkeypatch.setattr(
        GaussianRule, "normal", lambda self, *shape, like: noise["weight" if len(shape) == 3 else "bias"].clone()
    )
    settings = {"momentum": given["momentum"], "nesterov": given["nesterov"]}
    learner = MeanFieldLearner(
        net,
        state,
        Prior(given["lam"], given["N"]),
        Ruled(state.mu, state.psi, lambda each: Exemplar(each, torch.Generator())),
        PointDescent(state.points, Sgd([]), lambda t: 0.0, set(), 0.0),
        Descent(Sgd([Group(list(state.mu.views.values()))], **settings), lambda t: given["lr_mu"]),
        Descent(Sgd([Group([state.psi.flat])], **settings), lambda t: given["lr_psi"]),
        clamp=False,
        extra_decay=given["extra_mu_decay"],
    )
    step = Step(learner, micro_batch=None, precision=Precision("fp32", torch.device("cpu")))
    x, y = double(given["x"]), torch.tensor(given["y"])
    for t, expected in enumerate(case["expected"]["steps"]):
        assert float(step(x, y, t)) == pytest.approx(expected["loss"], abs=1e-9)
        for name in ("weight", "bias"):
            for flat, suffix in ((state.mu, "mu"), (state.psi, "psi")):
                assert (flat.views[name] - double(expected["params_after"][f"{name}_{suffix}"])).abs().max() < 1e-9


@pytest.mark.parametrize("case", oracle("psi_drift_bound"), ids=lambda case: case["id"])
def test_the_way_that_sgd_lets_psi_go_is_bounded(case):
    given = case["inputs"]
    config = MeanFieldConfig(preset="paper", lr_psi=given["lr_start"], schedule_psi=given["schedule"], clamp=False)
    rate = log_sd_rates(config, given["steps"])
    assert travel_bound(config, rate, given["steps"], given["N"]) == pytest.approx(case["expected"]["bound"], rel=1e-9)


def test_without_data_sgd_moves_psi_no_further_than_the_bound():
    config = MeanFieldConfig(preset="paper")
    prior, steps = Prior(2e-4, 1000), 500
    rate = log_sd_rates(config, steps)
    psi = torch.full((10,), -5.5, dtype=torch.float64)
    optimiser = Sgd([Group([psi])])
    for t in range(steps):
        psi.grad = torch.zeros_like(psi)
        prior.add_log_sd_gradient(psi.grad, psi)
        optimiser.step(rate(t))
    moved = float((psi + 5.5).max())
    bound = travel_bound(config, rate, steps, 1000)
    assert 0.8 * bound < moved < bound


def test_the_published_rate_leaves_psi_nats_away_from_the_optimum_of_conjugate_regression():
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(math.log10(3), math.log10(0.05), 6, dtype=torch.float64)
    x = torch.randn(500, 6, dtype=torch.float64, generator=generator) * scales
    prior, curvature = Prior(1e-3, 500), x.T @ x / 500
    exact = -0.5 * (500 * (curvature.diagonal() + prior.lam)).log()
    psi = torch.full((6,), -5.5, dtype=torch.float64)
    rate = log_sd_rates(MeanFieldConfig(preset="paper"), 4000)
    optimiser = Sgd([Group([psi])])
    for t in range(4000):
        psi.grad = (2 * psi).exp() * curvature.diagonal()  # the expected gradient of the data
        prior.add_log_sd_gradient(psi.grad, psi)
        optimiser.step(rate(t))
    short = exact - psi
    assert short.max() > 3
    assert (psi + 5.5).abs().max() < 0.1


def test_groups_of_one_optimiser_and_two_optimisers_take_the_same_steps():
    generator = torch.Generator().manual_seed(0)
    one = [torch.randn(5, generator=generator) for _ in range(2)]
    two = [tensor.clone() for tensor in one]
    together, apart = Sgd([Group([one[0]]), Group([one[1]])]), [Sgd([Group([tensor])]) for tensor in two]
    for t in range(4):
        gradients = [torch.randn(5, generator=generator) for _ in range(2)]
        for tensors in (one, two):
            for tensor, gradient in zip(tensors, gradients, strict=True):
                tensor.grad = gradient.clone()
        together.step(0.1 / (t + 1))
        for optimiser in apart:
            optimiser.step(0.1 / (t + 1))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_legal_and_its_identity_spells_it_out(name):
    config = MeanFieldConfig(preset=name)
    assert MeanFieldConfig(**config.identity()).identity() == config.identity()
    if name not in ("posthoc", "tempered", "before_sharing", "before_sharing_paper"):
        assert (config.estimator, config.select, config.encoding) == ("exemplar", "paper", "raw")
        assert (config.sigma_search, config.sigma_rescale, config.clamp) == (False, False, False)
        assert config.travel is None


def test_the_presets_hold_the_published_numbers():
    paper, v1, demo = (MeanFieldConfig(preset=name) for name in ("paper", "paper_v1", "demo"))
    assert (paper.epochs, paper.batch_size, paper.micro_batch, paper.nesterov) == (12, 256, 32, True)
    assert (paper.lr_mu, paper.schedule_mu, paper.lr_psi, paper.schedule_psi) == (1e-4, "constant", 1e-3, "cosine")
    rate = log_sd_rates(paper, 2340)
    assert (rate(0), rate(2340)) == (1e-3, pytest.approx(1e-4))
    rate = log_sd_rates(v1, 400)
    assert [rate(t) for t in (0, 99, 100, 200, 300)] == pytest.approx([0.1, 0.1, 0.02, 0.004, 0.0008])
    assert log_sd_rates(demo, 10)(9) == 0.1
    assert (demo.l2, demo.extra_mu_decay) == (2e-4, 2e-4)
    imagenet = MeanFieldConfig(preset="paper_imagenet")
    assert (imagenet.epochs, imagenet.nesterov) == (4, False)
    assert MeanFieldConfig(preset="moped").prior_mean == "pretrained"
    assert MeanFieldConfig(preset="paper_face").l2 == 5e-4


def test_the_paper_s_preset_fits_and_says_that_its_sigma_was_fixed(tmp_path):
    made = problem()
    ctx = context(tmp_path, made.network)
    config = MeanField.Config(preset="paper", epochs=2, batch_size=32, micro_batch=16, precision="fp32")
    posterior = MeanField().fit(made, ctx, config)
    ctx.close()
    facts = posterior.facts()
    assert facts["marks"] == "fixed sigma"
    assert facts["estimator"] == "exemplar"
    assert facts["fallback_ops"] == ""
    assert 0 < facts["psi_move"] < 0.05
    psi = torch.cat([value.flatten() for value in posterior.log_sd.values()])
    assert -6.01 < float(psi.min()) < float(psi.max()) < -4.99
    assert set(posterior.log_sd) == {"conv.weight", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert posterior.encoding == "raw"


def test_an_operational_micro_batch_does_not_touch_estimators_with_noise_per_example(tmp_path):
    made = problem()
    for estimator, expected in (("shared", 7), ("exemplar", None)):
        ctx = context(tmp_path / estimator, made.network, micro_batch=7)
        config = MeanFieldConfig(estimator=estimator, bn="frozen", batch_size=20)
        schedule = Schedule.of(made, ctx, config, divisible=estimator == "shared")
        assert schedule.micro_batch == expected
        ctx.close()


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"lr_psi": 1e-3, "travel": 1.0}, ("lr_psi", "travel")),
        ({"schedule_psi": "steps"}, ("schedule_psi", "lr_psi")),
        ({"optim_psi": "sgd", "travel": 1.0}, ("travel", "optim_psi")),
        ({"preset": "paper", "travel": 0.5}, ("lr_psi", "travel")),
        ({"optim_psi": "sgd"}, ("optim_psi", "lr_psi")),
        ({"travel": None}, ("travel", "lr_psi")),
        ({"select": "last_blocks:0"}, ("select", "last_blocks")),
        ({"select": "heads"}, ("select", "last_blocks")),
        ({"estimator": "exemplary"}, ("estimator",)),
        ({"sigma_init": {"kind": "uniform_log", "low": 5, "high": 6}, "sigma_search": False}, ("ln sigma", "sign")),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(config, fields):
    with pytest.raises(ValidationError) as error:
        MeanFieldConfig(**config)
    assert all(field in str(error.value) for field in fields)


@pytest.mark.parametrize("case", oracle("temperature_scaling"), ids=lambda case: case["id"])
def test_the_companion_with_temperature_finds_the_oracle_s(case):
    logits, labels = double(case["inputs"]["logits"]), torch.tensor(case["inputs"]["target"])
    found = fit_scale(logits, labels).temperature
    assert found == pytest.approx(case["expected"]["temperature"], abs=1e-6)
    nll = nn.functional.cross_entropy(logits / found, labels)
    assert float(nll) == pytest.approx(case["expected"]["nll"], abs=1e-6)


@pytest.mark.parametrize("case", oracle("ece15_right_closed"), ids=lambda case: case["id"])
def test_the_published_calibration_error_differs_from_the_suite_s_in_the_rule_at_bin_edges_only(case):
    confidence, correct = (double(case["inputs"][key]).numpy() for key in ("confidence", "correct"))
    right_closed = torch.tensor(confidence * 15).sub(1e-9).ceil().sub(1).clamp(min=0).long().numpy()
    assert calibration_error(right_closed, confidence, correct) == pytest.approx(case["expected"]["ece"], abs=1e-12)


def test_flat_tensors_of_another_network_are_refused():
    net, other = nn.Linear(3, 2), nn.Linear(4, 2)
    states = [MeanFieldState(each, select(each, "weights", train_rest=True)) for each in (net, other)]
    before = states[0].mu.flat.clone()
    with pytest.raises(Exception, match=r"another network.*'mu'"):
        states[0].load_state_dict(states[1].state_dict())
    assert torch.equal(states[0].mu.flat, before)
    assert isinstance(states[0].mu, Flat)
