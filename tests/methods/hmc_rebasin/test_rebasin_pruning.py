"""Pruning: the oracle's order and counts, exact percentages, ties, scopes, frames."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from compact_cases import oracle, summary_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import small_with_token

from benchmark import ConfigError, copy_of
from methods.hmc_rebasin.pruning import CURVE, kept_entries, prune
from methods.hmc_rebasin.summary import Summary
from methods.symmetry.errors import FrameError

(CASE,) = oracle("pruning")


def summary_of_case() -> Summary:
    """In two tensors, so that ranks run across them."""
    mean, std = (torch.tensor(CASE["inputs"][name], dtype=torch.float64) for name in ("mean", "std"))
    return Summary({"a": mean[:4], "b": mean[4:].view(2, 3)}, {"a": std[:4], "b": std[4:].view(2, 3)}, "f", 100)


@pytest.mark.parametrize("rule", ["snr", "sigma", "abs_mu"])
def test_pruned_means_are_those_of_the_oracle(rule):
    summary = summary_of_case()
    before = copy_of(summary.mu)
    for row in CASE["expected"]["table"]:
        pruning = prune(summary, row["keep_percent"], rule)
        found = pruning.applied(summary.mu, "f")
        assert pruning.kept == row["n_keep"]
        assert [*found["a"].tolist(), *found["b"].flatten().tolist()] == row[f"mean_{rule}"], row["keep_percent"]
    assert all(torch.equal(summary.mu[name], before[name]) for name in before)
    assert [row["keep_percent"] for row in CASE["expected"]["table"]] == list(CURVE)


@settings(max_examples=40)
@given(
    scores=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    percent=st.fractions(Fraction(1, 50), 100, max_denominator=50),
)
def test_the_highest_scores_stay_and_of_equal_ones_the_first(scores, percent):
    mu = torch.tensor(scores, dtype=torch.float64)
    pruning = prune(Summary({"w": mu}, {"w": torch.ones_like(mu)}, "f", 100), percent, "abs_mu")
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    expected = sorted(order[: int(percent * len(scores) // 100)])
    assert pruning.masks["w"].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize(
    ("percent", "total", "kept"), [(29, 100, 29), (0.1, 3000, 3), (12.5, 8, 1), ("33.4", 500, 167), (1, 99, 0)]
)
def test_percentages_are_decimal_numbers_without_binary_rounding(percent, total, kept):
    assert kept_entries(percent, total) == kept


@pytest.mark.parametrize("percent", [0, -1, 100.1, float("nan"), float("inf"), "many"])
def test_percentages_beyond_their_range_are_refused(percent):
    with pytest.raises(ConfigError, match="legal: above 0, up to 100"):
        prune(summary_of_case(), percent)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="'magnitude'; legal: snr, sigma, abs_mu"):
        prune(summary_of_case(), 50, "magnitude")


def test_keeping_nothing_leaves_all_zeros():
    pruning = prune(summary_of_case(), 1)
    assert pruning.kept == 0
    assert all(not tensor.any() for tensor in pruning.applied(summary_of_case().mu, "f").values())


def test_only_weights_of_layers_are_ranked_when_the_scope_says_so():
    net = small_with_token()
    pruning = prune(summary_of(net), 25, scope="weights")
    whole = {name for name, mask in pruning.masks.items() if bool(mask.all())}
    assert whole == {"conv.bias", "norm.weight", "norm.bias", "head.bias", "token"}
    assert pruning.total == net.conv.weight.numel() + net.head.weight.numel()
    assert sum(int(pruning.masks[name].sum()) for name in ("conv.weight", "head.weight")) == pruning.total // 4


def test_entries_without_a_distribution_are_neither_kept_nor_counted():
    summary = summary_of_case()
    mask = torch.tensor([False, True, False, True])
    mu, sigma = ({**one, "a": one["a"].where(~mask, 0)} for one in (summary.mu, summary.sigma))
    pruning = prune(Summary(mu, sigma, "f", 100, {"a": mask}), 100)
    assert (pruning.kept, pruning.total) == (8, 8)
    assert pruning.masks["a"].tolist() == [True, False, True, False]


def test_weights_of_another_frame_are_refused_and_others_pass_as_they_are():
    pruning = prune(summary_of_case(), 50)
    weights = {**summary_of_case().mu, "running_mean": torch.ones(3)}
    assert pruning.applied(weights, "f")["running_mean"] is weights["running_mean"]
    with pytest.raises(FrameError, match="weights member 3, scores f"):
        pruning.applied(weights, "member 3")
