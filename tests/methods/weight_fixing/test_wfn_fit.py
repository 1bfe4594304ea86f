"""Whole fits: what is this method's own. What it shares with others is tested in `fixed_weights`."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from small_problems import digits_nlls, problem_of
from small_problems import small_with_token as network
from torch import nn
from wfn_cases import METHOD, QUICK, fit

from benchmark import weights_of
from methods.finetuning.select import norm_parameters
from methods.weight_fixing.candidates import grid_bits
from methods.weight_fixing.schedule import Schedule
from methods.weight_fixing.scope import wfn_scope


@pytest.fixture(autouse=True)
def quick_figure(monkeypatch):
    """A picture in no time: drawing the real one takes longer than these fits."""
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    monkeypatch.setattr("methods.fixed_weights.fit.fixing_figure", lambda rounds, book, b: svg)


# ---- what a fit does -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("include_norm", [True, False])
def test_norms_are_fixed_where_they_are_included_and_trained_where_not(tmp_path, include_norm):
    posterior, made = fit(tmp_path, config={"include_norm": include_norm})
    scaled = posterior.mean()["norm.bias"] * 2 ** grid_bits(QUICK["delta"])
    assert torch.equal(scaled, scaled.round()) == include_norm
    if not include_norm:
        assert not torch.equal(posterior.mean()["norm.bias"], weights_of(made.network)["norm.bias"])
    assert posterior.facts()["weights"] == 107 + 16 * include_norm
    assert posterior.facts()["rest"] == 8 + 16 * (not include_norm)


def test_norms_of_all_kinds_are_in_scope():
    net = nn.Sequential(
        nn.Linear(4, 4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.BatchNorm1d(4), nn.InstanceNorm1d(4)
    )
    names = ("1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "4.weight", "4.bias")
    assert norm_parameters(net) == names
    assert wfn_scope(net, True).bayesian == ("0.weight", "0.bias", *names)


def test_distances_shrink_in_equal_steps_to_delta():
    assert METHOD.Config(delta=0.01).distances() == pytest.approx([0.01 * times for times in range(10, 0, -1)])
    assert METHOD.Config(delta=0.02, fractions=[0.5, 1.0]).distances() == [0.04, 0.02]


def test_the_passes_are_none_before_the_first_iteration_and_whole_epochs_before_every_other_one():
    made = problem_of(network(), network, n=200)
    plan = Schedule(METHOD.Config(batch_size=10, fractions=[0.5, 0.9, 1.0]), made)
    assert plan.lengths == [0, *[20] * 6]
    assert [plan.closes(number) for number in range(7)] == [0, None, None, 1, None, None, 2]
    untrained = Schedule(METHOD.Config(fractions=[0.5, 0.9, 1.0], rest_epochs=0), made)
    assert untrained.lengths == [0, 0, 0]
    assert [untrained.closes(number) for number in range(3)] == [0, 1, 2]


# ---- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"delta": 0.001}, r"delta\n.*greater than or equal to 0\.003"),
        ({"fractions": [0.5, 0.5]}, r"\[0\.5, 0\.5\] are no rising shares in \(0, 1\]"),
        ({"fractions": [0.5, 1.1]}, "no rising shares"),
        ({"fractions": []}, "fractions\n.*at least 1 item"),
        ({"preset": "papers"}, "Did you mean 'paper'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_refused_with_what_would(given_settings, message):
    with pytest.raises(ValidationError, match=message):
        METHOD.Config(**given_settings)


# ---- digits --------------------------------------------------------------------------------------------------------


def test_a_perceptron_on_digits_keeps_its_likelihood_on_few_values(tmp_path):
    config = METHOD.Config(fractions=[0.5, 0.9, 1.0], rest_epochs=1, lr=1e-3)
    base, fitted, after = digits_nlls(tmp_path, METHOD, config, base_epochs=8)
    assert fitted == after
    assert fitted < base + 0.02
