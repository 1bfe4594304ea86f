"""What settings mean before anything runs: tiers, presets, priors, needs, titles."""

from __future__ import annotations

import math

import pytest
from hmc_runs import normed, perceptron
from torch import nn

from benchmark import ConfigError, Need, TaskInfo
from methods.hmc import Hmc
from methods.hmc.config import SamplingConfig
from methods.hmc.prior import prior_scales
from methods.hmc.tiers import is_settled, settled


@pytest.mark.parametrize(
    ("parameters", "examples", "sampler", "lengths"),
    [
        (1_210, 1_077, "hmc", {"chains": 4, "burn_in": 80, "samples": 900, "keep": 300, "max_leapfrog": 1000}),
        (5_001, 1_077, "hmc", {"chains": 4, "burn_in": 100, "samples": 900, "keep": 300, "max_leapfrog": 400}),
        (1_210, 10_000, "hmc", {"chains": 4, "max_leapfrog": 400}),
        (1_210, 10_001, "sghmc", {"chains": 1, "cycles": 6, "cycle_epochs": 50}),
        (60_001, 1_077, "sghmc", {"chains": 1, "cycles": 4, "cycle_epochs": 20}),
    ],
)
def test_size_decides_the_sampler_and_its_lengths(parameters, examples, sampler, lengths):
    config = settled(SamplingConfig(), parameters, examples)
    assert config.sampler == sampler
    assert config.init == ("map" if sampler == "sghmc" else "random")
    assert {name: getattr(config, name) for name in lengths} == lengths
    assert is_settled(config)
    assert settled(config, 1, 1) == config, "what is settled stays"


def test_augmentation_is_for_stochastic_gradients():
    assert settled(SamplingConfig(augment=True), 100, 100).sampler == "sghmc"


def test_given_lengths_stand_and_the_others_follow_them():
    assert settled(SamplingConfig(samples=40), 100, 100).keep == 40
    assert settled(SamplingConfig(keep=1200), 100, 100).samples == 1200
    assert settled(SamplingConfig(chains=2, sampler="sghmc"), 100, 100).chains == 2


@pytest.mark.parametrize("preset", ["recommended", "paper", "csgmcmc", "smoke"])
@pytest.mark.parametrize("size", [(1_000, 1_000), (1_000_000, 50_000)])
def test_every_preset_can_be_settled(preset, size):
    assert is_settled(settled(SamplingConfig(preset=preset), *size))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"keep": 9, "samples": 8}, "keep 9 states of 8 samples"),
        ({"sampler": "hmc", "augment": True}, "set augment: false, or sampler: sghmc"),
        ({"target_accept": 1.0}, "less than 1"),
        ({"mass": "diag", "burn_in": 7}, "legal: burn_in from 8"),
        ({"mass": "diag", "sampler": "pyro"}, "set mass: unit"),
        ({"temperature": 0}, "greater than 0"),
        ({"prior_std": -1}, "prior_std"),
        ({"sampler": "nuts"}, "sampler"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        SamplingConfig(**given)


def scales(network: nn.Module, base=None, **given) -> float:
    """The one standard deviation of all tensors."""
    [scale] = set(prior_scales(network, settled(SamplingConfig(**given), 1000, 1000), 400, base).values())
    return scale


def test_the_prior_follows_the_sampler_and_the_base_network():
    sgd, adam = {"l2": 5e-4}, {"l2": 0.0}
    assert scales(perceptron()) == 1.0
    assert scales(perceptron(), prior_std=0.3) == 0.3
    assert scales(normed(), sgd, sampler="sghmc") == pytest.approx(1 / math.sqrt(400 * 5e-4))
    assert scales(normed(), adam, sampler="sghmc") == pytest.approx(1 / math.sqrt(5))
    assert scales(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), adam, sampler="sghmc") == 0.2
    assert scales(normed(), sgd, prior_std="map") == pytest.approx(1 / math.sqrt(400 * 5e-4))


def test_a_prior_from_a_base_network_without_l2_is_refused_with_numbers_to_take_instead():
    with pytest.raises(ConfigError, match=r"Set a number: 1\.0 for a perceptron"):
        scales(perceptron(), {"l2": 0.0}, prior_std="map")


def test_a_table_names_every_parameter_once():
    names = [name for name, _ in perceptron().named_parameters()]
    table = {name: 0.1 * (index + 1) for index, name in enumerate(names)}
    assert prior_scales(perceptron(), SamplingConfig(prior_std=table), 9, None) == pytest.approx(table)
    with pytest.raises(ConfigError, match=r"1 parameters, the first is '3\.bias'"):
        scales(perceptron(), prior_std=dict.fromkeys(names[:-1], 1.0))
    with pytest.raises(ConfigError, match=r"'3\.bia', which is no trainable parameter\. Did you mean '3\.bias'"):
        scales(perceptron(), prior_std={**table, "3.bia": 1.0})


def test_it_starts_from_the_base_network_only_where_it_says_so():
    assert Hmc().needs(SamplingConfig(sampler="hmc")) == ()
    for given in ({"sampler": "sghmc"}, {"init": "map"}, {"prior_std": "map"}):
        assert Hmc().needs(SamplingConfig(**given)) == (Need("map"),)
    assert Hmc().needs(SamplingConfig(sampler="sghmc", init="random", prior_std=1.0)) == ()


def test_stochastic_gradients_are_not_called_hmc():
    assert Hmc().title(SamplingConfig(sampler="sghmc"), ()) == "sghmc"
    assert Hmc().title(SamplingConfig(sampler="hmc"), ()) == "hmc"


def test_planning_looks_at_the_network_only_where_something_is_open():
    info = TaskInfo((1, 6, 6), 3, 100, 30, 30)

    def unwanted() -> nn.Module:
        raise AssertionError("the network was built")

    config = settled(SamplingConfig(), 100, 100)
    assert Hmc().settled(config, info, unwanted) == config
    assert Hmc().settled(SamplingConfig(), info, perceptron).samples == 900
