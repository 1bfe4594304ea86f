"""Where sigma starts, and how its scale is found on validation data."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mean_field_cases import double, network, oracle
from small_problems import split
from torch import nn

from benchmark import Split, forward, weights_of
from methods.finetuning.flat import Flat
from methods.mean_field.config import Constant, FanIn, RelativeAbs, RelativeRms, UniformLog
from methods.mean_field.search import (
    DRAWS,
    GRID,
    Around,
    is_significant,
    label_log_probs,
    rescale_sigma,
    search_sigma,
    standard_normal,
)
from methods.mean_field.sigma import initial_log_sd

RULES = {"relative_rms": RelativeRms, "constant": Constant, "fan_in": FanIn, "relative_abs": RelativeAbs}


@pytest.mark.parametrize("case", oracle("psi_init_deterministic"), ids=lambda case: case["id"])
def test_initial_psi_equals_the_oracle(case):
    rule = {key: value for key, value in case["inputs"].items() if key != "w"}
    found = initial_log_sd({"w": double(case["inputs"]["w"])}, RULES[rule["kind"]](**rule), math.inf, torch.Generator())
    expected = double(case["expected"]["psi"])
    assert (found.log_sd["w"].expand_as(expected) - expected).abs().max() < 1e-9
    assert found.clipped == 0


def test_uniform_log_sigma_has_the_moments_of_its_law():
    (case,) = oracle("psi_init_uniform")
    expected = case["expected"]
    init = UniformLog(low=case["inputs"]["lo"], high=case["inputs"]["hi"])
    psi = initial_log_sd({"w": torch.zeros(1000, 1000)}, init, math.inf, torch.Generator().manual_seed(0)).log_sd["w"]
    assert expected["min_ge"] <= float(psi.min())
    assert float(psi.max()) <= expected["max_le"]
    psi = psi.double()
    for found, moment in (
        (psi.mean(), "mean_psi"),
        (psi.std(), "std_psi"),
        (psi.exp().mean(), "E_sigma"),
        ((2 * psi).exp().mean(), "E_sigma2"),
    ):
        assert float(found) == pytest.approx(expected[moment], rel=case["tolerance"]["rel_sample_1e6"])


@given(value=st.floats(1e-3, 10), prior=st.floats(-6, 1), seed=st.integers(0, 2**31))
def test_sigma_never_starts_above_the_prior(value, prior, seed):
    weights = {"w": torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))}
    free = initial_log_sd(weights, RelativeAbs(value=value), math.inf, torch.Generator()).log_sd["w"]
    found = initial_log_sd(weights, RelativeAbs(value=value), prior, torch.Generator())
    assert float(found.log_sd["w"].max()) <= prior + 1e-6
    assert found.clipped == pytest.approx(float((free > prior).double().mean()))


def around(net: nn.Module, names: set[str]) -> Around:
    own = weights_of(net)
    mean = Flat.copy_of({name: own[name] for name in own if name in names})
    return Around(net, mean, {name: own[name] for name in own if name not in names}, seed=3, batch_size=16)


WEIGHTS = {"conv.weight", "head.weight"}


def test_scores_equal_a_plain_loop_over_draws_and_candidates():
    net, val = network(), split(40)
    where = around(net, WEIGHTS)
    scales = [[0.1, 0.2], [0.3, 0.0]]
    found = label_log_probs(where, standard_normal, scales, val)
    for candidate, factors in enumerate(scales):
        generator = torch.Generator().manual_seed(where.seed)
        probabilities = torch.zeros(40, dtype=torch.float64)
        for _ in range(DRAWS):
            noise = Flat.like(where.mean)
            noise.flat.normal_(generator=generator)
            weights = {
                name: where.mean.views[name] + factor * noise.views[name]
                for name, factor in zip(where.mean.views, factors, strict=True)
            }
            logits = forward(net, {**where.fixed, **weights}, val.inputs).detach().double()
            probabilities += logits.softmax(-1)[torch.arange(40), val.labels] / DRAWS
        assert torch.allclose(found[candidate], probabilities.log(), atol=1e-6)  # float32 logits


def overconfident() -> tuple[nn.Module, Split]:
    """A linear network that is far too sure of labels that are three parts noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 1, 1, 20, generator=generator)
    clean = (inputs[:, 0, 0, 0] > 0).long()
    labels = torch.where(torch.rand(400, generator=generator) < 0.3, 1 - clean, clean)
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 2, bias=False))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[1, 0] = 6.0
    return net.eval(), Split(inputs, labels)


def test_search_widens_an_overconfident_network_and_reports_every_candidate():
    net, val = overconfident()
    found = search_sigma(around(net, {"1.weight"}), RelativeRms(), math.inf, val)
    assert len(found.nll) == len(GRID) + 2
    assert found.nll[found.value] == min(found.nll.values())
    assert found.value > 0.3
    assert found.nll[found.value] < found.nll[GRID[0]] - 0.1


def test_search_flags_a_minimum_at_the_edge_and_respects_the_prior():
    net, val = overconfident()
    timid = nn.Sequential(nn.Flatten(), nn.Linear(20, 2, bias=False)).eval()
    timid.load_state_dict({"1.weight": net[1].weight / 20})
    clean = Split(val.inputs, (val.inputs[:, 0, 0, 0] > 0).long())
    low = search_sigma(around(timid, {"1.weight"}), RelativeRms(), math.inf, clean)
    assert low.at_edge  # no width of the grid is right for a network that needs less noise than none
    assert low.value in (GRID[0], GRID[0] / math.sqrt(2), GRID[-1], GRID[-1] * math.sqrt(2))
    narrow = search_sigma(around(net, {"1.weight"}), RelativeRms(), -12.0, val)
    assert max(narrow.nll.values()) - min(narrow.nll.values()) < 1e-3  # every candidate is clipped to sigma 6e-6


def test_search_leaves_the_network_as_it_was():
    net = network().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    search_sigma(around(net, WEIGHTS), RelativeRms(), math.inf, split(40))
    assert net.training
    assert net.norm.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_rescaling_shrinks_noise_that_is_far_too_wide_and_keeps_one_without_evidence():
    net, val = overconfident()
    where = around(net, {"1.weight"})
    clean = Split(val.inputs, (val.inputs[:, 0, 0, 0] > 0).long())
    assert rescale_sigma(where, torch.full((40,), math.log(3.0)), clean) < 0.5
    assert rescale_sigma(where, torch.full((40,), -20.0), clean) == 1.0  # no factor changes anything


def test_a_gain_counts_only_beyond_two_standard_errors():
    spread = torch.linspace(-1, 1, 101, dtype=torch.float64)
    error = float(spread.std()) / math.sqrt(101)
    assert is_significant(spread + 2.01 * error)
    assert not is_significant(spread + 1.99 * error)
    assert not is_significant(torch.ones(1))
