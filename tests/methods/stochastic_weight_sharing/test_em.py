"""EM over cells against sklearn, a slow version, and its own bound."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_cases import binned, gaussian_groups, moments_of
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.axes import Axes
from methods.stochastic_weight_sharing.sharing.em import RIDGE, cluster_gmm, fit_mixture, log_joint, log_likelihood


def normal(components: Tensor, k: int) -> multivariate_normal:
    """N(m_k, S_k + ridge I) of one component, from its sums."""
    _, m1, m2, square1, square2, product = (components[:, k] / components[0, k]).tolist()
    covariance = np.array([[square1 - m1**2, product - m1 * m2], [product - m1 * m2, square2 - m2**2]])
    return multivariate_normal([m1, m2], covariance + RIDGE * np.eye(2))


def shuffled_start(group: Tensor, seed: int = 3) -> Tensor:
    """The groups, with a third of the points in a random one."""
    generator = torch.Generator().manual_seed(seed)
    anywhere = torch.randint(int(group.max()) + 1, group.shape, generator=generator)
    return torch.where(torch.rand(group.shape, generator=generator) < 1 / 3, anywhere, group)


def majority(labels: Tensor, cell: Tensor) -> Tensor:
    """The most frequent label of each cell."""
    counts = torch.zeros(int(cell.max()) + 1, int(labels.max()) + 1)
    return counts.index_put_((cell, labels), torch.ones(()), accumulate=True).argmax(1)


@pytest.mark.parametrize("grid", [None, (512, 128)], ids=["weights", "cells"])
def test_means_and_likelihood_are_those_of_sklearn(grid: tuple[int, int] | None) -> None:
    x, s, group = gaussian_groups([8000, 6000, 4000, 2000])
    every, start = moments_of(x, s), shuffled_start(group)
    sums = Axes.of(every).sums(every)
    points = sums[1:3].T.numpy()
    first = sums.new_zeros(6, 4).index_add_(1, start, sums)
    precisions = [np.linalg.inv(normal(first, k).cov) for k in range(4)]
    reference = GaussianMixture(
        4,
        weights_init=(first[0] / first[0].sum()).numpy(),
        means_init=(first[1:3] / first[0]).T.numpy(),
        precisions_init=precisions,
        max_iter=200,
        tol=1e-9,
    ).fit(points)
    moments, cell = (every, torch.arange(len(x))) if grid is None else binned(x, s, grid)
    cells = Axes.of(moments).sums(moments)
    components, _ = fit_mixture(cells, majority(start, cell), 4, 200)
    deviations = np.sqrt(reference.covariances_[:, [0, 1], [0, 1]])
    means = (components[1:3] / components[0]).T.numpy()
    assert np.abs((means - reference.means_) / deviations).max() < 1e-2
    assert log_likelihood(sums, log_joint(components, RIDGE)) / len(x) == pytest.approx(
        reference.score(points), abs=1e-3
    )
    labels, count = cluster_gmm(moments, majority(start, cell), 4, 200)
    assert count == 4
    assert (labels[cell] == torch.from_numpy(reference.predict(points))).double().mean() > 0.998


def test_an_iteration_is_that_of_a_slow_version() -> None:
    x, s, group = gaussian_groups([40, 60, 50], apart=1.5)
    moments, cell = binned(x, s, (12, 8))
    sums = Axes.of(moments).sums(moments)
    start = majority(group, cell)
    components, history = fit_mixture(sums, start, 3, 1)
    first = sums.new_zeros(6, 3).index_add_(1, start, sums)
    expected, value = np.zeros((6, 3)), 0.0
    for index in range(sums.shape[1]):
        own = sums[:, index].numpy()
        phi = own / own[0]
        joint = np.zeros(3)
        for k in range(3):
            density = normal(first, k)
            precision = np.linalg.inv(density.cov)
            m = phi[1:3] - density.mean
            within = np.array([[phi[3], phi[5]], [phi[5], phi[4]]]) - np.outer(phi[1:3], phi[1:3])
            mean_square = m @ precision @ m + np.trace(precision @ within)
            log_norm = -np.log(2 * np.pi) - np.log(np.linalg.det(density.cov)) / 2
            joint[k] = np.log(float(first[0, k]) / len(x)) + log_norm - mean_square / 2
        value += own[0] * logsumexp(joint)
        expected += np.outer(own, np.exp(joint - logsumexp(joint)))
    assert history == [pytest.approx(value, rel=1e-12)]
    np.testing.assert_allclose(components.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_log_joint_is_the_weighted_normal_density_also_far_out() -> None:
    x, s, group = gaussian_groups([100, 300], apart=40.0)
    every = moments_of(x, s)
    sums = Axes.of(every).sums(every)
    components = sums.new_zeros(6, 2).index_add_(1, group, sums)
    expected = [
        np.log(float(components[0, k]) / 400) + normal(components, k).logpdf(sums[1:3].T.numpy()) for k in range(2)
    ]
    joint = log_joint(components, RIDGE) @ sums
    np.testing.assert_allclose(joint.numpy(), np.stack(expected), rtol=1e-9)
    assert log_likelihood(sums, log_joint(components, RIDGE)) == pytest.approx(logsumexp(expected, axis=0).sum())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), grid=st.sampled_from([(6, 3), (20, 10), (100, 50)]), count=st.integers(2, 8))
def test_iterations_never_lower_the_likelihood_however_coarse_the_cells(
    seed: int, grid: tuple[int, int], count: int
) -> None:
    x, s, _ = gaussian_groups([400, 300, 200], seed, apart=2.0)
    moments, _ = binned(x, s, grid)
    sums = Axes.of(moments).sums(moments)
    start = torch.randint(count, (len(moments),), generator=torch.Generator().manual_seed(seed))
    components, history = fit_mixture(sums, start, count, 15)
    if components.shape[1] == count:  # dissolving one is allowed to cost likelihood
        slack = 1e-5 * len(x)  # the ridge is not part of the maximised bound
        assert all(later >= earlier - slack for earlier, later in pairwise(history))
    assert float(components[0].sum()) == pytest.approx(len(x))


def test_the_cells_of_a_component_below_three_members_go_to_the_next() -> None:
    x, s, group = gaussian_groups([200, 200], apart=14.0)
    start = group.clone()
    start[[7, 9]] = 2
    labels, count = cluster_gmm(moments_of(x, s), start, 3, 20)
    assert count == 2
    assert torch.equal(labels, group)


def test_one_component_is_left_where_all_are_too_small() -> None:
    x, s, _ = gaussian_groups([2, 2])
    labels, count = cluster_gmm(moments_of(x, s), torch.tensor([0, 0, 1, 1]), 2, 5)
    assert (labels.tolist(), count) == ([0, 0, 0, 0], 1)


def test_labels_have_no_gaps_where_a_component_wins_no_cell() -> None:
    x, s, group = gaussian_groups([100, 100], apart=14.0)
    copies, twins = torch.arange(600) % 3, group.repeat_interleave(3) * 2
    twins += (twins == 0) * (copies == 2)  # 1: the Gaussian of 0 with half its weight
    labels, count = cluster_gmm(moments_of(x.repeat_interleave(3), s.repeat_interleave(3)), twins, 3, 5)
    assert count == 2
    assert torch.equal(labels, group.repeat_interleave(3))


def test_as_many_groups_as_cells_stay() -> None:
    x, s, _ = gaussian_groups([3, 2])
    labels, count = cluster_gmm(moments_of(x, s), torch.arange(5), 5, 20)
    assert (labels.tolist(), count) == ([0, 1, 2, 3, 4], 5)


def test_a_sigma_that_does_not_vary_has_no_say() -> None:
    x, _, group = gaussian_groups([300, 200], apart=14.0)
    s = torch.full_like(x, 0.02) * (1 + 1e-8 * torch.randn(500, generator=torch.Generator().manual_seed(0)))
    labels, count = cluster_gmm(moments_of(x, s), shuffled_start(group), 2, 50)
    assert count == 2
    assert torch.equal(labels, group)


def test_it_stops_once_the_likelihood_has_settled() -> None:
    x, s, group = gaussian_groups([500, 500])
    every = moments_of(x, s)
    _, history = fit_mixture(Axes.of(every).sums(every), group, 2, 1000)
    assert len(history) < 20
    assert history[-1] - history[-2] < 1e-6 * abs(history[-1])
