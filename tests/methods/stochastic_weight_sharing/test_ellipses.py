"""Ellipse points and their blends against slow versions, and the moments of a mixture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_cases import gaussian_groups, moments_of, plane_of
from scipy.special import expit
from scipy.stats import multivariate_normal
from torch import Tensor

from methods.stochastic_weight_sharing.sharing import ellipses
from methods.stochastic_weight_sharing.sharing.ellipses import beyond_ellipse, blend, mixture_moments
from methods.stochastic_weight_sharing.sharing.plane import Plane
from methods.stochastic_weight_sharing.sharing.shared import label_dtype

NOBODY = torch.zeros(0, dtype=torch.int64)


class Case:
    """Weights in three tensors and overlapping clusters of them, without 1% outliers."""

    def __init__(self, sizes: list[int], seed: int = 0, apart: float = 2.0) -> None:
        x, s, self.group = gaussian_groups(sizes, seed, apart)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        self.plane, self.group = plane_of(x[order], s[order]), self.group[order]
        self.x, self.s = (feature.double() for feature in self.plane.at(torch.arange(len(x))))
        self.outliers = order[: len(x) // 100].sort().values
        self.inlier = torch.ones(len(x), dtype=torch.bool).index_fill_(0, self.outliers, False)
        self.labels = torch.where(self.inlier, self.group, 0).to(label_dtype(len(sizes)))
        members = moments_of(self.x[self.inlier], self.s[self.inlier])
        self.clusters = members.pooled(self.group[self.inlier], len(sizes))
        self.theta = np.stack([self.x.numpy(), self.s.log().numpy()], axis=1)

    def normals(self) -> list[multivariate_normal]:
        """The clusters' Gaussians in (x, l)."""
        means = np.stack([self.clusters.mean_of("x").numpy(), self.clusters.mean_of("l").numpy()], axis=1)
        covariances = self.clusters.covariance("x", "l").numpy()
        return [multivariate_normal(m, S) for m, S in zip(means, covariances, strict=True)]


def slowly_beyond(case: Case, quantile: float) -> list[int]:
    normals, found = case.normals(), []
    for index in case.inlier.nonzero()[:, 0].tolist():
        density = normals[int(case.group[index])]
        away = case.theta[index] - density.mean
        if away @ np.linalg.inv(density.cov) @ away > -2 * math.log(1 - quantile):
            found.append(index)
    return found


@pytest.mark.parametrize("quantile", [0.5, 0.95])
@pytest.mark.parametrize("sizes", [[400, 300, 300], [5] * 300], ids=["3-clusters", "300-clusters"])
def test_who_is_beyond_is_found_one_by_one(sizes: list[int], quantile: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ellipses, "PART", 100)
    case = Case(sizes)
    found = beyond_ellipse(case.plane, case.labels, case.outliers, case.clusters, quantile)
    assert found.dtype == torch.int64
    assert found.tolist() == slowly_beyond(case, quantile)


def test_an_ellipse_leaves_out_one_in_twenty_of_a_gaussian() -> None:
    case = Case([40_000, 20_000])
    found = beyond_ellipse(case.plane, case.labels, case.outliers, case.clusters, 0.95)
    share, n = len(found) / int(case.inlier.sum()), len(case.x)
    assert share == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / n))
    assert not torch.isin(found, case.outliers).any()


def test_clusters_without_spread_have_no_ellipse_points() -> None:
    x, s = torch.tensor([0.5, 1.5, -2.0, -2.0]), torch.tensor([0.1, 0.2, 0.3, 0.3])
    plane = plane_of(x, s)
    clusters = moments_of(x, s).pooled(torch.tensor([0, 1, 2, 2]), 3)
    labels = torch.tensor([0, 1, 2, 2], dtype=torch.uint8)
    assert beyond_ellipse(plane, labels, NOBODY, clusters, 0.5).tolist() == []
    swapped = torch.tensor([1, 0, 2, 2], dtype=torch.uint8)
    assert beyond_ellipse(plane, swapped, NOBODY, clusters, 0.95).tolist() == [0, 1]


def test_rounding_of_a_constant_sigma_makes_no_ellipse_points() -> None:
    x = torch.linspace(-1, 1, 1000)  # within sqrt(3) deviations: none is beyond 2.45
    s = torch.full((1000,), 0.02) * (1 + 6e-8 * (torch.arange(1000) % 97 == 0))
    clusters = moments_of(x, s).pooled(torch.zeros(1000, dtype=torch.int64), 1)
    plane = Plane({"w": x}, {"w": s}, {"w": 1.0})
    assert beyond_ellipse(plane, torch.zeros(1000, dtype=torch.uint8), NOBODY, clusters, 0.95).tolist() == []


@pytest.mark.parametrize("sizes", [[400, 300, 300], [20] * 40, [500, 500]], ids=["3", "40", "2-clusters"])
def test_blends_are_those_of_a_slow_version(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ellipses, "rows_at_a_time", lambda groups, device: 7)
    case = Case(sizes)
    index = beyond_ellipse(case.plane, case.labels, case.outliers, case.clusters, 0.8)
    blended, first = blend(case.plane, index, case.labels, case.clusters)
    weights = (case.clusters.n / case.clusters.n.sum()).log().tolist()
    densities = [w + d.logpdf(case.theta[index]) for w, d in zip(weights, case.normals(), strict=True)]
    joint = np.stack(densities, axis=1)
    order = np.argsort(-joint, axis=1)
    assert torch.equal(blended.index, index)
    assert first.tolist() == order[:, 0].tolist()
    assert blended.second.tolist() == order[:, 1].tolist()
    lead = np.take_along_axis(joint, order[:, :1], 1) - np.take_along_axis(joint, order[:, 1:2], 1)
    np.testing.assert_allclose(blended.alpha.numpy(), expit(lead[:, 0]), atol=0.5 / 510 + 1e-6)
    assert (blended.level < 255).sum() > 5  # some are blends indeed


def test_blended_weights_lie_between_their_clusters() -> None:
    case = Case([300, 300, 300])
    index = beyond_ellipse(case.plane, case.labels, case.outliers, case.clusters, 0.9)
    blended, first = blend(case.plane, index, case.labels, case.clusters)
    (a, b_sq), second = case.clusters.codewords(), blended.second
    A, V = mixture_moments(blended.alpha, a[first], b_sq[first], a[second], b_sq[second])
    assert bool(((torch.minimum(a[first], a[second]) <= A) & (torch.maximum(a[first], a[second]) >= A)).all())
    assert bool((torch.minimum(b_sq[first], b_sq[second]) <= V).all())
    assert bool((blended.alpha >= 0.5).all())


@pytest.mark.parametrize("index", [NOBODY, torch.tensor([0, 4])], ids=["nobody", "two"])
def test_one_cluster_blends_nothing(index: Tensor) -> None:
    case = Case([50])
    blended, first = blend(case.plane, index, case.labels, case.clusters)
    assert (len(blended.index), len(blended.second), len(blended.level), len(first)) == (0, 0, 0, 0)


def test_nobody_beyond_blends_nothing() -> None:
    case = Case([50, 50])
    blended, first = blend(case.plane, NOBODY, case.labels, case.clusters)
    assert (len(blended.index), len(first)) == (0, 0)


def test_the_moments_of_a_mixture_have_the_published_values() -> None:
    a, b = torch.tensor([0.1, 0.4]).double(), torch.tensor([0.05, 0.1]).double()
    A, V = mixture_moments(torch.tensor(0.3).double(), a[0], b[0] ** 2, a[1], b[1] ** 2)
    assert (float(A), float(V)) == (pytest.approx(0.31, rel=1e-7), pytest.approx(0.02665, rel=1e-7))


def test_the_moments_of_a_mixture_are_those_of_its_draws() -> None:
    generator, n = torch.Generator().manual_seed(0), 1_000_000
    alpha, a, b = 0.7, torch.tensor([-0.5, 0.8]).double(), torch.tensor([0.3, 0.6]).double()
    which = (torch.rand(n, generator=generator) >= alpha).long()
    draws = a[which] + b[which] * torch.randn(n, generator=generator).double()
    A, V = mixture_moments(torch.tensor(alpha).double(), a[0], b[0] ** 2, a[1], b[1] ** 2)
    assert float(draws.mean()) == pytest.approx(float(A), abs=4 * float(V / n) ** 0.5)
    deviation = float(((draws - A) ** 2).std())
    assert float(draws.var()) == pytest.approx(float(V), abs=4 * deviation / n**0.5)


@settings(deadline=None)
@given(alpha=st.floats(0.5, 1), a1=st.floats(-9, 9), a2=st.floats(-9, 9), b1=st.floats(1e-6, 1), b2=st.floats(1e-6, 1))
def test_a_mixture_is_no_narrower_than_both(alpha: float, a1: float, a2: float, b1: float, b2: float) -> None:
    values = (torch.tensor(value, dtype=torch.float32) for value in (alpha, a1, b1**2, a2, b2**2))
    A, V = mixture_moments(*values)
    tolerance = 1e-6  # of float32, for numbers up to 9: the variance keeps its digits beside a^2
    assert min(a1, a2) - tolerance * 9 <= float(A) <= max(a1, a2) + tolerance * 9
    assert float(V) >= min(b1, b2) ** 2 * (1 - tolerance)


def test_the_moments_of_a_mixture_are_differentiable() -> None:
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 0.2, 0.01, -0.4, 0.09)]
    assert torch.autograd.gradcheck(mixture_moments, values)


def test_outliers_are_no_points_of_the_cluster_that_their_label_names() -> None:
    case = Case([100, 100], apart=50.0)
    far = case.outliers[case.group[case.outliers] == 1]
    assert len(far) > 0
    without = beyond_ellipse(case.plane, case.labels, NOBODY, case.clusters, 0.95)
    found = beyond_ellipse(case.plane, case.labels, case.outliers, case.clusters, 0.95)
    assert bool(torch.isin(far, without).all())
    assert not bool(torch.isin(far, found).any())
