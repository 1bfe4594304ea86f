"""Two diagonal Gaussians weight by weight: the oracle's divergences, a second library's correlations, frames."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

from methods.symmetry.errors import FrameError
from methods.symmetry.weight_space import DiagonalGaussian, compare, kl, w2_squared

CASES = json.loads((Path(__file__).parent / "weight_space_oracles.json").read_text())["cases"]
DIVERGENCES = [case for case in CASES if case["kind"] == "diagonal_gaussian_divergence"]


def gaussian(seed: int, frame: str = "f", noise: float = 1.0) -> DiagonalGaussian:
    """Tensors of a small network around a common truth."""
    truth, g = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    mu, sigma = {}, {}
    for name, shape in {"w": (30, 20), "b": (30,)}.items():
        mu[name] = torch.randn(shape, generator=truth) + noise * torch.randn(shape, generator=g)
        sigma[name] = torch.rand(shape, generator=truth) + 0.1 + noise * torch.rand(shape, generator=g)
    return DiagonalGaussian(mu, sigma, frame)


@pytest.mark.parametrize("case", DIVERGENCES, ids=lambda case: case["id"])
def test_divergences_are_those_of_the_oracle(case):
    names = ("mu_a", "sd_a", "mu_b", "sd_b")
    arrays = [np.array(case["inputs"][name]) for name in names]
    expected = case["expected"]
    assert kl(*arrays).tolist() == pytest.approx(expected["kl"], abs=1e-8)
    assert float(w2_squared(*arrays).sum()) == pytest.approx(expected["w2_squared"], abs=1e-8)
    mu_a, sd_a, mu_b, sd_b = ({"w": torch.from_numpy(one)} for one in arrays)
    overall = compare(DiagonalGaussian(mu_a, sd_a, "f"), DiagonalGaussian(mu_b, sd_b, "f")).overall
    assert overall.kl_ab == pytest.approx(expected["kl_mean"], abs=1e-8)
    assert overall.w2 == pytest.approx(expected["w2_squared"] / len(arrays[0]), abs=1e-8)


def test_tensors_are_compared_as_a_second_library_would():
    a, b = gaussian(0), gaussian(1)
    found = compare(a, b).tensors["w"]
    mu, log_sigma = ([one[key].flatten().numpy() for one in pair] for key, pair in (
        ("w", (a.mu, b.mu)),
        ("w", ({"w": a.sigma["w"].log()}, {"w": b.sigma["w"].log()})),
    ))  # fmt: skip
    assert found.mu_pearson == pytest.approx(stats.pearsonr(*mu).statistic, abs=1e-6)
    assert found.mu_spearman == pytest.approx(stats.spearmanr(*mu).statistic, abs=1e-6)
    assert found.log_sigma_pearson == pytest.approx(stats.pearsonr(*log_sigma).statistic, abs=1e-6)
    assert found.log_sigma_spearman == pytest.approx(stats.spearmanr(*log_sigma).statistic, abs=1e-6)
    ours, theirs = (Normal(one.mu["w"].double(), one.sigma["w"].double()) for one in (a, b))
    assert found.kl_ab == pytest.approx(float(kl_divergence(ours, theirs).mean()), rel=1e-9)
    assert found.kl_ba == pytest.approx(float(kl_divergence(theirs, ours).mean()), rel=1e-9)
    assert found.weights == 600


def test_overall_takes_all_weights_as_one_vector():
    a, b = gaussian(0), gaussian(1)
    found = compare(a, b)
    whole = [torch.cat([tensor.flatten() for tensor in one.mu.values()]).numpy() for one in (a, b)]
    assert found.overall.weights == 630
    assert found.overall.mu_pearson == pytest.approx(stats.pearsonr(*whole).statistic, abs=1e-6)
    mixed = sum(one.weights * one.w2 for one in found.tensors.values()) / 630
    assert found.overall.w2 == pytest.approx(mixed, rel=1e-12)


def test_a_posterior_agrees_with_itself():
    found = compare(gaussian(0), gaussian(0)).overall
    assert found.mu_pearson == pytest.approx(1, abs=1e-12)
    assert found.log_sigma_spearman == pytest.approx(1, abs=1e-12)
    assert found.kl_ab == found.kl_ba == found.w2 == 0


def test_constant_sides_have_no_correlation():
    ones = DiagonalGaussian({"w": torch.randn(5)}, {"w": torch.ones(5)}, "f")
    found = compare(ones, ones).overall
    assert found.log_sigma_pearson is None
    assert found.log_sigma_spearman is None
    assert found.mu_pearson == pytest.approx(1)


def test_entries_without_a_distribution_take_no_part():
    a, b = gaussian(0), gaussian(1)
    holes = torch.zeros(30, dtype=torch.bool)
    holes[10:20] = True
    sparse = DiagonalGaussian(
        {**a.mu, "b": a.mu["b"].where(~holes, 1e9)}, {**a.sigma, "b": a.sigma["b"].where(~holes, 0)}, "f"
    )
    found = compare(sparse, b).tensors["b"]
    part = [DiagonalGaussian({"b": o.mu["b"][~holes]}, {"b": o.sigma["b"][~holes]}, "f") for o in (a, b)]
    assert found == compare(*part).tensors["b"]
    none = DiagonalGaussian(a.mu, {name: torch.zeros_like(one) for name, one in a.sigma.items()}, "f")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(none, b)


def test_scatter_points_are_weights_of_their_tensors_and_as_many_as_asked_for():
    a, b = gaussian(0), gaussian(1)
    scatter = compare(a, b, points=100, seed=3).scatter
    rows = list(csv.DictReader(io.StringIO(scatter.csv())))
    assert len(rows) == 100
    assert list(rows[0]) == ["tensor", "mu_a", "sigma_a", "mu_b", "sigma_b"]
    pairs = {
        (name, *(float(f"{v:.9g}") for v in values))
        for name in a.mu
        for values in zip(*(one[name].flatten().tolist() for one in (a.mu, a.sigma, b.mu, b.sigma)), strict=True)
    }
    found = {(row["tensor"], *(float(row[key]) for key in list(row)[1:])) for row in rows}
    assert len(found) == 100
    assert found <= pairs
    assert {name for name, *_ in found} == {"w", "b"}
    assert compare(a, b, points=100, seed=3).scatter.csv() == scatter.csv()
    assert len(compare(a, b).scatter.names) == 630


def test_two_labellings_are_refused():
    with pytest.raises(FrameError, match="a hmc, b vi"):
        compare(gaussian(0, "hmc"), gaussian(1, "vi"))


def test_different_tensors_are_refused():
    other = DiagonalGaussian({"w": torch.zeros(3)}, {"w": torch.ones(3)}, "f")
    with pytest.raises(ValueError, match="same names and shapes"):
        compare(gaussian(0), other)
