"""What is predicted: the averaged samples are those of their own posterior, the aligned mean works, the other not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from experiment_cases import chains_of, digits_like, material_of, numbers, permuted_copies, with_norms

from methods.hmc_rebasin.performance import LARGE, performance, ranks_of
from methods.map.evaluation import agreement, evaluate_draws, total_variation


def test_only_the_mean_of_aligned_samples_predicts_what_they_predict(tmp_path):
    problem = digits_like()
    _, copies = permuted_copies(problem, 30)
    run = chains_of(problem, copies, 3)
    facts = performance(material_of(tmp_path, problem, run))
    rows = {row["predictive"]: row for row in numbers(tmp_path, "performance")}
    expected = ["sample", "samples", "mean", "diagonal", "rank_5", "rank_20", "unaligned_mean"]
    assert list(rows) == expected
    averaged = evaluate_draws(problem.network, run.draws(30, torch.Generator()), problem.val)
    assert facts["val_nll_samples"] == pytest.approx(averaged.nll, abs=1e-6)
    assert facts["val_accuracy_samples"] == averaged.accuracy
    assert float(rows["samples"]["agreement"]) == 1
    assert float(rows["samples"]["tv"]) == 0
    assert facts["val_agreement_mean"] > 0.95
    assert facts["val_tv_mean"] < 0.02
    assert facts["val_accuracy_unaligned_mean"] < facts["val_accuracy_samples"] - 0.2
    assert int(rows["diagonal"]["networks"]) == problem.draws


def test_running_statistics_of_means_and_draws_are_their_own(tmp_path):
    problem = with_norms()
    _, copies = permuted_copies(problem, 4)
    facts = performance(material_of(tmp_path, problem, chains_of(problem, copies)))
    assert facts["val_agreement_mean"] > 0.8
    assert facts["val_agreement_diagonal"] > 0.7
    assert facts["val_accuracy_unaligned_mean"] < facts["val_accuracy_samples"]


def test_two_samples_have_no_directions_besides_and_training_data_are_named(tmp_path):
    problem = replace(digits_like(), val=None)
    _, copies = permuted_copies(problem, 2)
    facts = performance(material_of(tmp_path, problem, chains_of(problem, copies)))
    assert [row["predictive"] for row in numbers(tmp_path, "performance")][3:] == ["diagonal", "unaligned_mean"]
    assert all(name.startswith("train_") for name in facts)


def test_ranks_are_below_the_number_of_samples_and_one_for_large_networks():
    assert ranks_of(600, 600 * 4810) == [5, 20, 100]
    assert ranks_of(20, 1) == [5]
    assert ranks_of(90, LARGE + 1) == [20]
    assert ranks_of(6, LARGE + 1) == [5]


def test_agreement_and_total_variation_by_hand():
    a = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]).log()
    b = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]).log()
    assert agreement(a, b) == 0.5
    assert total_variation(a, b) == pytest.approx((0.25 + 0.1) / 2, abs=1e-7)
