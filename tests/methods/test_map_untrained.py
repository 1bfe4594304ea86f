"""`epochs: 0`: the network as it starts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from map_cases import SHAPE, context, convolutional, fit, problem

from benchmark import ConfigError, Diverged, NeededRun, Problem, evaluating, weights_of
from methods.finetuning.base_run import ASSUMED_L2, recipe_for
from methods.map import Map
from methods.map_finetuned import MapFinetuned
from methods.mc_dropout import McDropout


def test_the_weights_are_those_that_the_network_starts_with(tmp_path):
    fitted = fit(tmp_path, {"epochs": 0}, build=convolutional)
    start = weights_of(convolutional(0))
    assert fitted.weights.keys() == start.keys()
    assert all(torch.equal(fitted.weights[name], start[name]) for name in start)
    facts = fitted.facts()
    assert (facts["epochs_run"], facts["best_epoch"]) == (0, 0)
    net, val = convolutional(0), problem().val
    assert val is not None
    with evaluating(net), torch.no_grad():
        nll = torch.nn.functional.cross_entropy(net(val.inputs), val.labels)
    assert facts["val_nll"] == pytest.approx(float(nll), rel=1e-5)
    (record,) = [json.loads(line) for line in (tmp_path / "history.jsonl").open()]
    assert record == {"epoch": 0, "val_nll": facts["val_nll"], "val_accuracy": facts["val_accuracy"]}


@pytest.mark.parametrize("config", [{"patience": 3}, {"select": "last"}, {"ema": 0.9, "mixup": 1.0}])
def test_how_it_would_be_trained_does_not_matter(tmp_path, config):
    fitted = fit(tmp_path, {"epochs": 0, **config}, val=False)
    assert fitted.facts()["epochs_run"] == 0
    assert "val_nll" not in fitted.facts()


def test_a_budget_does_not_train_it(tmp_path):
    made = problem()
    more = Problem(made.network, made.new_network, made.train, made.val, SHAPE, 3, 5, budget=3.0)
    assert Map().fit(more, context(tmp_path), Map.Config(epochs=0)).facts()["epochs_run"] == 0


@pytest.mark.parametrize(("weight_decay", "l2", "assumed"), [("auto", ASSUMED_L2, True), (2e-4, 2e-4, False)])
def test_fine_tuning_takes_its_prior_from_the_settings_and_else_assumes_one(tmp_path, weight_decay, l2, assumed):
    base = fit(tmp_path, {"epochs": 0, "weight_decay": weight_decay}, build=convolutional)
    needed = [NeededRun("map", {}, base.facts(), base)]
    recipe = recipe_for(MapFinetuned.Config(), context(tmp_path / "next", needed=needed))
    assert (recipe.optimiser, recipe.l2, recipe.l2_assumed) == ("sgd", l2, assumed)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    made = problem()
    with torch.no_grad():
        next(made.network.parameters()).fill_(torch.nan)
    with pytest.raises(Diverged, match=r"a weight of the network is nan.*the weights that the network starts with"):
        Map().fit(made, context(tmp_path), Map.Config(epochs=0))


def test_dropout_can_be_put_on_a_network_as_it_is(tmp_path):
    fitted = McDropout().fit(problem(convolutional), context(tmp_path), McDropout.Config(epochs=0))
    assert fitted.facts()["epochs_run"] == 0
    assert fitted.facts()["dropped_layers"] == 1


def test_a_further_member_of_networks_that_nothing_trains_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="member 2 with 'epochs: 0' would not be trained"):
        fit(tmp_path, {"epochs": 0, "member": 2})


def test_further_members_start_from_the_published_weights_and_train_apart(tmp_path):
    start = {"1.weight": torch.full((8, 16), 0.01)}
    still = {"epochs": 1, "lr": 1e-12, "optimiser": "sgd", "weight_decay": 0}
    made = replace(problem(), start=start)
    ctx = context(tmp_path)
    member = Map().fit(made, ctx, Map.Config(**still, member=1))
    assert torch.allclose(member.weights["1.weight"], start["1.weight"], atol=1e-9)
    assert not torch.equal(member.weights["3.weight"], made.network[3].weight)
