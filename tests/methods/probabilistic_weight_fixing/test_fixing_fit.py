"""Whole fits: what is this method's own. What it shares with others is tested in `fixed_weights`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fixing_cases import METHOD, fit
from fixing_fits import decoded, varied
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_problems import bytes_of, digits_nlls, history, problem_of
from small_problems import small_with_token as network
from torch import Tensor

from benchmark import copy_of, weights_of
from benchmark.predict import predict
from methods.fixed_weights.scope import scope_of
from methods.probabilistic_weight_fixing.passes import passes_of
from methods.probabilistic_weight_fixing.rounds import fix_round


@pytest.fixture(autouse=True)
def quick_figure(monkeypatch):
    """A picture in no time: drawing the real one takes longer than these fits."""
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    monkeypatch.setattr("methods.fixed_weights.fit.fixing_figure", lambda rounds, book, b: svg)


# ---- what a fit does -----------------------------------------------------------------------------------------------


def test_weights_alone_can_be_the_scope(tmp_path):
    posterior, made = fit(tmp_path, config={"scope": "weights"})
    assert posterior.facts()["weights"] == 72 + 24
    bias = posterior.mean()["conv.bias"]
    assert not torch.equal(bias * 128, (bias * 128).round())
    assert not torch.equal(bias, weights_of(made.network)["conv.bias"])


@pytest.mark.parametrize("config", [{}, {"preset": "paper"}, {"count": "nearest", "membership": "mean"}], ids=str)
def test_after_every_round_just_the_share_asked_for_is_fixed(tmp_path, config):
    posterior, _ = fit(tmp_path, config={**config, "fractions": [0.2, 0.55, 0.8, 1.0], "rest_epochs": 1})
    rounds = history(tmp_path, "round")
    assert [one["fixed"] for one in rounds] == [22, 59, 86, 107]
    again = config.get("preset") == "paper"  # all weights are clustered in every round
    assert [one["left"] for one in rounds] == ([22, 59, 86, 107] if again else [22, 37, 27, 21])
    for one in rounds:
        counts = [int(pick.split(":")[1]) for pick in one["picks"].split()]
        assert sum(counts) == one["left"]
    assert posterior.facts()["picks"] == sum(len(one["picks"].split()) for one in rounds)


def test_a_round_that_has_nothing_to_fix_is_recorded_without_a_pick(tmp_path):
    fit(tmp_path, config={"fractions": [0.995, 1.0], "rest_epochs": 0})  # ceil(0.995 x 107) = 107
    last = history(tmp_path, "round")[1]
    assert (last["left"], last["picks"], last["phases"], last["fixed"]) == (0, "", 0, 107)


def test_what_is_fixed_in_a_round_keeps_every_bit_until_the_end(tmp_path, monkeypatch):
    after: list[tuple[Tensor, Tensor, Tensor]] = []

    def watched(weights, *given_to, **options):
        record = fix_round(weights, *given_to, **options)
        after.append((weights.fixed.clone(), weights.mu.clone(), weights.sigma.clone()))
        return record

    monkeypatch.setattr("methods.probabilistic_weight_fixing.fit.fix_round", watched)
    fit(tmp_path, config={"weight_decay": 0.5, "alpha": 1.0, "decay_sigma": True})
    _, last_mu, last_sigma = after[-1]
    assert len(after) == 3
    for fixed, mu, sigma in after:
        assert torch.equal(last_mu[fixed], mu[fixed])
        assert torch.equal(last_sigma[fixed], sigma[fixed])
        assert not torch.equal(last_mu[~fixed], mu[~fixed]) or bool(fixed.all())


def test_an_early_end_leaves_gaussians_and_the_file_keeps_them(tmp_path):
    posterior, made = fit(tmp_path, config={"fractions": [0.5, 0.9], "predict": "draws"})
    assert len(posterior._stored.free_mu) == 10
    data = bytes_of(posterior)
    again = decoded(data, made.network)
    assert bytes_of(again) == data
    assert all(torch.equal(again.mean()[name], tensor) for name, tensor in posterior.mean().items())


def test_a_share_of_less_than_a_weight_fixes_none_and_is_no_failure(tmp_path):
    posterior, made = fit(tmp_path, config={"fractions": [1e-9], "predict": "draws"})
    facts = posterior.facts()
    assert [facts[name] for name in ("unique", "picks", "max_delta", "late_fraction")] == [0, 0, 0, 0]
    assert len(posterior._stored.free_mu) == 107
    assert bytes_of(decoded(bytes_of(posterior), made.network)) == bytes_of(posterior)


def test_the_share_of_negative_sigmas_is_the_largest_of_the_rounds_among_free_weights(tmp_path):
    posterior, _ = fit(tmp_path, config={"lr": 0.5, "clip_norm": None})
    shares = [one["negative_sigma"] for one in history(tmp_path, "round")]
    assert 0 < posterior.facts()["negative_sigma"] == max(shares) <= 1


# ---- length, rate, and what is trained -----------------------------------------------------------------------------


def test_the_passes_are_a_short_start_and_whole_epochs_before_every_other_round():
    made = problem_of(network(), network, n=200)
    plan = passes_of(METHOD.Config(batch_size=10, fractions=[0.5, 0.9, 1.0], start_epochs=2), made)
    assert [(one.round, one.steps, one.closes) for one in plan] == [
        (0, 1, False),
        (0, 1, True),
        *[(1, 20, False)] * 2,
        (1, 20, True),
        *[(2, 20, False)] * 2,
        (2, 20, True),
    ]
    made = problem_of(network(), network, n=1000)
    cut = METHOD.Config(batch_size=10, fractions=[1.0], start_fraction=0.29)
    assert [one.steps for one in passes_of(cut, made)] == [29]  # 0.29 x 100 is 28.999... in floating point
    made = problem_of(network(), network, n=200)
    half = passes_of(METHOD.Config(batch_size=10, fractions=[0.5, 1.0]), replace(made, budget=0.5))
    assert [one.steps for one in half] == [1, 20, 20]


def test_alternating_trains_the_means_and_then_the_sigmas():
    made = problem_of(network(), network)
    config = METHOD.Config(alternate=True, rest_epochs=2, start_epochs=1, fractions=[0.5, 1.0])
    assert [one.part for one in passes_of(config, made)] == ["means", "sigmas", *["means"] * 2, *["sigmas"] * 2]


def test_the_rate_is_high_for_short_rounds_and_low_for_long_ones(tmp_path):
    short, _ = fit(tmp_path / "short")
    assert short.facts()["lr"] == 1e-2
    given_rate, _ = fit(tmp_path / "given", config={"lr": 0.05})
    assert given_rate.facts()["lr"] == 0.05


# ---- means or draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("b", [7, 4])
def test_predictions_are_made_with_whatever_validates_better(tmp_path, b):
    posterior, _ = fit(tmp_path, config={"b": b})
    facts = posterior.facts()
    better = "draws" if facts["val_nll_draws"] < facts["val_nll_mean"] else "mean"
    assert facts["predict"] == posterior._stored.predict == better


@pytest.mark.parametrize(("way", "tolerance"), [("mean", 1e-6), ("draws", 2e-3)])
def test_validations_are_those_of_the_posterior_s_own_predictions(tmp_path, way, tolerance):
    posterior, made = fit(tmp_path, config={"predict": way, "val_draws": 200, "sigma_init": "constant"})
    scores = predict(made.network, posterior, made.val, 200, torch.Generator().manual_seed(3)).log_probs
    nll = -float(scores[torch.arange(len(made.val)), made.val.labels].double().mean())
    assert nll == pytest.approx(posterior.facts()[f"val_nll_{way}"], abs=tolerance)  # 2e-3: noise of 200 draws


def test_the_mean_is_predicted_without_validation_data(tmp_path, caplog):
    posterior, _ = fit(tmp_path, problem_of(network(), network, val=None))
    assert posterior.facts()["predict"] == "mean"
    assert posterior.support == 1
    assert "no validation data" in caplog.text
    assert not [name for name in posterior.facts() if name.startswith("val_")]


def test_pooled_sigmas_are_one_per_value_and_unpooled_ones_one_per_cluster(tmp_path):
    pooled, _ = fit(tmp_path / "pooled", config={"predict": "draws"})
    apart, _ = fit(tmp_path / "apart", config={"predict": "draws", "sigma_pool": "none"})
    assert len(pooled._stored.book) == pooled.facts()["unique"]
    assert len(apart._stored.book) > apart.facts()["unique"]
    assert all(torch.equal(pooled.mean()[name], tensor) for name, tensor in apart.mean().items())


# ---- unusual networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"preset": "paper"}, {"b": 2}], ids=["recommended", "paper", "coarse"])
def test_zeros_single_elements_groups_dilation_attention_and_ties_are_fixed(tmp_path, config):
    made = problem_of(varied(), varied)
    posterior, _ = fit(tmp_path, made, config)
    for weights in (posterior.mean(), *map(copy_of, posterior.draws(2, torch.Generator().manual_seed(0)))):
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    b = config.get("b", 7)
    for name in scope_of(made.network, "weights_and_biases").bayesian:
        scaled = posterior.mean()[name] * 2**b
        assert torch.equal(scaled, scaled.round()), name
    assert bytes_of(decoded(bytes_of(posterior), varied(1))) == bytes_of(posterior)


@settings(max_examples=5, deadline=None)
@given(
    b=st.integers(1, 9),
    zero_fix=st.booleans(),
    join=st.sampled_from(["std_mu", "keep", "div10", "div2"]),
    reg=st.sampled_from(["released", "hinge", "none"]),
    init=st.sampled_from(["pow2", "constant"]),
    recluster=st.booleans(),
)
def test_any_settings_end_with_a_file_that_decodes(tmp_path_factory, b, zero_fix, join, reg, init, recluster):
    config = {
        "b": b,
        "zero_fix": zero_fix,
        "sigma_join": join,
        "reg": reg,
        "sigma_init": init,
        "recluster_all": recluster,
        "fractions": [0.5, 1.0],
        "rest_epochs": 1,
    }
    posterior, made = fit(tmp_path_factory.mktemp("any"), config=config)
    again = decoded(bytes_of(posterior), made.network)
    assert all(torch.equal(again.mean()[name], tensor) for name, tensor in posterior.mean().items())


# ---- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"inc": 1.0}, "inc\n.*greater than 1"),
        ({"sigma_join": "mean_mu"}, "sigma_join\n.*'std_mu', 'keep', 'div10' or 'div2'"),
        ({"fractions": [0.5, 0.5]}, r"\[0\.5, 0\.5\] are no rising shares in \(0, 1\]"),
        ({"fractions": [0.0, 1.0]}, "no rising shares"),
        ({"fractions": [0.5, 1.1]}, "no rising shares"),
        ({"fractions": []}, "fractions\n.*at least 1 item"),
        ({"delta_start": 0}, "delta_start\n.*greater than 0"),
        ({"reg": "exponential"}, "reg\n.*'released', 'hinge' or 'none'"),
        ({"decay_fixed": True}, "recluster_all: true or decay_fixed: false"),
        ({"sigma_join": "keep", "sigma_pool": "none"}, "sigma_pool: value, sigma_join: std_mu or predict: mean"),
        ({"sigma_join": "div10", "sigma_pool": "none", "predict": "draws"}, "set sigma_pool: value"),
        ({"preset": "papers"}, "Did you mean 'paper'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_refused_with_what_would(given_settings, message):
    with pytest.raises(ValidationError, match=message):
        METHOD.Config(**given_settings)


def test_sigma_per_weight_is_legal_where_no_draw_is_stored(tmp_path):
    posterior, _ = fit(tmp_path, config={"sigma_join": "keep", "sigma_pool": "none", "predict": "mean"})
    assert posterior.support == 1
    assert "val_nll_draws" in posterior.facts()


def test_the_reach_of_the_rounds_goes_from_start_to_end():
    config = METHOD.Config(fractions=[0.2, 0.6, 1.0], delta_start=1.0, delta_end=0.5)
    assert config.deltas() == [1.0, 0.75, 0.5]
    assert METHOD.Config(fractions=[1.0], delta_start=2.0).deltas() == [2.0]


# ---- digits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "cost"), [(7, 0.01), (4, 0.05)])
def test_a_perceptron_on_digits_keeps_its_likelihood(tmp_path, b, cost):
    config = METHOD.Config(b=b, fractions=[0.4, 0.8, 0.95, 1.0], rest_epochs=1, batch_size=64)
    base, fitted, after = digits_nlls(tmp_path, METHOD, config, base_epochs=15)
    assert fitted == after
    assert fitted < base + cost


def test_on_a_coarse_grid_training_repairs_what_clustering_breaks(tmp_path):
    def nll(folder: str, **config: Any) -> float:
        settings_ = METHOD.Config(b=3, predict="mean", batch_size=64, **config)
        return digits_nlls(tmp_path / folder, METHOD, settings_, base_epochs=15)[1]

    untrained = nll("untrained", start_epochs=0, rest_epochs=0)
    assert nll("trained") < 0.8 * untrained
