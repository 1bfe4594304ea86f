"""The pruning curve: whole networks at 100 %, the rules' own masks below, in the frame of the summary."""

from __future__ import annotations

import pytest
import torch
from experiment_cases import chains_of, digits_like, material_of, numbers, permuted_copies, with_norms

from methods.hmc_rebasin.pruning import CURVE, prune
from methods.hmc_rebasin.pruning_curve import pruning_curve
from methods.map.evaluation import evaluate_draws


def test_the_curve_begins_at_the_mean_network_and_holds_every_rule(tmp_path):
    problem = digits_like()
    _, copies = permuted_copies(problem, 10)
    material = material_of(tmp_path, problem, chains_of(problem, copies))
    facts = pruning_curve(material)
    rows = numbers(tmp_path, "pruning")
    assert [(row["rule"], int(row["percent"])) for row in rows] == [
        (rule, percent) for rule in ("snr", "sigma", "abs_mu") for percent in CURVE
    ]
    whole = evaluate_draws(problem.network, [material.built.summary.mu], problem.val)
    for row in rows:
        if row["percent"] == "100":
            assert float(row["accuracy_mean"]) == pytest.approx(whole.accuracy)
            assert float(row["nll_mean"]) == pytest.approx(whole.nll, abs=1e-6)
    for rule in ("snr", "sigma", "abs_mu"):
        masks = prune(material.built.summary, 50, rule).masks
        halved = {name: mu * masks[name] for name, mu in material.built.summary.mu.items()}
        expected = evaluate_draws(problem.network, [halved], problem.val).accuracy
        assert facts[f"val_accuracy_half_{rule}"] == pytest.approx(expected)


def test_members_are_pruned_in_the_frame_of_the_scores(tmp_path):
    """Copies of one network without noise: aligned members lose the same units as the mean network."""
    problem = digits_like()
    _, copies = permuted_copies(problem, 6, noise=0.0)
    pruning_curve(material_of(tmp_path, problem, chains_of(problem, copies), prune_scope="weights"))
    for row in numbers(tmp_path, "pruning"):
        assert float(row["nll_members"]) == pytest.approx(float(row["nll_mean"]), abs=1e-4)


def test_pruned_networks_get_running_statistics_of_their_own_and_samples_stay_as_they_are(tmp_path):
    problem = with_norms()
    _, copies = permuted_copies(problem, 4)
    material = material_of(tmp_path, problem, chains_of(problem, copies))
    before = {name: tensor.clone() for name, tensor in material.aligned.samples.items()}
    facts = pruning_curve(material)
    assert facts["val_accuracy_half_abs_mu"] > 0.6
    assert all(torch.equal(before[name], tensor) for name, tensor in material.aligned.samples.items())
