"""The closed form of W2 against matrix roots, and merging against a slow greedy version that looks at every pair."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_timing import threads
from plane_cases import moments_of
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.moments import Moments
from methods.stochastic_weight_sharing.sharing.settings import SharingSettings
from methods.stochastic_weight_sharing.sharing.wasserstein import merge_near, squared_distance

M1, M2 = torch.tensor([[0.01, 0.02], [0.013, 0.018]], dtype=torch.float64)
S1 = torch.tensor([[4e-6, 1e-6], [1e-6, 9e-6]], dtype=torch.float64)
S2 = torch.tensor([[1e-6, -2e-7], [-2e-7, 4e-6]], dtype=torch.float64)


def w2(**thresholds: float | None) -> SharingSettings:
    return SharingSettings(merge="w2", cluster="gmm", **thresholds)


def spd(count: int, generator: torch.Generator) -> Tensor:
    """Covariances (count, 2, 2) float64 of condition numbers from 1 to about 1e6."""
    angle = 3.2 * torch.rand(count, generator=generator).double()
    spread = (3.5 * torch.randn(count, 2, generator=generator).double().clamp(-2, 2)).exp()
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    return turn @ spread.diag_embed() @ turn.mT


def root(S: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(S)
    return vectors @ values.clamp(min=0).sqrt().diag_embed() @ vectors.mT


def random_clusters(count: int, seed: int, unit: float = 1.0) -> Moments:
    """Clusters of 3 to 30 points around random places."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count).repeat_interleave(torch.randint(3, 31, (count,), generator=generator))
    place = torch.randn(2, count, generator=generator).double()
    noise = torch.randn(2, len(label), generator=generator).double()
    x = 0.5 * place[0, label] + 0.1 * noise[0]
    s = (-1 + 0.3 * place[1, label] + 0.1 * noise[1]).exp()
    return moments_of(unit * x, unit * s).pooled(label, count)


def slowly_merged(clusters: Moments, gradients: Tensor | None, s: SharingSettings) -> list[set[int]]:
    """Merge the nearest admissible pair, all pairs anew every time, until there is none."""
    g = torch.zeros(len(clusters)).double() if gradients is None else gradients.clone()
    groups = [{index} for index in range(len(clusters))]
    while True:
        (a, variance), n = clusters.codewords(), clusters.n
        b = variance.sqrt()
        merged = (clusters.sum_of("x")[:, None] + clusters.sum_of("x")) / (n[:, None] + n)
        change = (g[:, None] * (merged - a[:, None]) + g * (merged - a)).abs()
        limit = (b[:, None] * b).sqrt() * s.kappa if s.tau_d is None else torch.tensor(s.tau_d)
        distance = by_roots(clusters)
        admissible = (distance < limit) & torch.ones_like(distance).tril(-1).bool()
        if s.tau_v is not None:
            admissible &= (b[:, None] / b).log().abs() < s.tau_v
        if s.tau_g is not None and gradients is not None:
            admissible &= change < s.tau_g
        if not bool(admissible.any()):
            return groups
        i, j = divmod(int(torch.where(admissible, distance, math.inf).argmin()), len(groups))
        groups[j], g[j] = groups[j] | groups.pop(i), g[j] + g[i]
        label = torch.arange(len(n)) - (torch.arange(len(n)) > i).long()
        label[i] = j  # j < i
        clusters = clusters.pooled(label, len(groups))
        g = torch.cat([g[:i], g[i + 1 :]])


def by_roots(clusters: Moments) -> Tensor:
    """W2 of all pairs, (K, K)."""
    m = torch.stack([clusters.mean_of("x"), clusters.mean_of("s")], -1)
    S = clusters.covariance("x", "s")
    cross = root(root(S)[:, None] @ S @ root(S)[:, None])
    traces = (S[:, None] + S - 2 * cross).diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((m[:, None] - m).square().sum(-1) + traces).clamp(min=0).sqrt()


def sets(merged: Tensor) -> list[set[int]]:
    return [set((merged == group).nonzero()[:, 0].tolist()) for group in range(int(merged.max()) + 1)]


def test_the_closed_form_has_the_published_value() -> None:
    assert float(squared_distance(M1, S1, M2, S2)) == pytest.approx(1.5107146229274203e-05, rel=1e-13)


def test_the_closed_form_is_that_of_matrix_roots() -> None:
    generator = torch.Generator().manual_seed(0)
    A, B = spd(2000, generator), spd(2000, generator)
    m = torch.randn(2, 2000, 2, generator=generator).double()
    expected = (m[0] - m[1]).square().sum(-1) + (A + B - 2 * root(root(A) @ B @ root(A))).diagonal(dim1=1, dim2=2).sum(
        1
    )
    found = squared_distance(m[0], A, m[1], B)
    traces = (A + B).diagonal(dim1=1, dim2=2).sum(1)  # what the matrix roots cancel
    assert float(((found - expected).abs() / traces).max()) < 1e-10
    torch.testing.assert_close(squared_distance(m[1], B, m[0], A), found, rtol=1e-14, atol=0)


def test_a_distance_of_tiny_covariances_keeps_its_digits() -> None:
    generator = torch.Generator().manual_seed(1)
    A, B, m = spd(200, generator), spd(200, generator), torch.zeros(2).double()
    torch.testing.assert_close(
        squared_distance(m, 1e-10 * A, m, 1e-10 * B), 1e-10 * squared_distance(m, A, m, B), rtol=1e-9, atol=0
    )
    assert bool((squared_distance(m, A, m, A) == 0).all())
    near = squared_distance(m, S1, m, (1 + 1e-9) ** 2 * S1)  # of multiples: (1e-9)^2 tr S
    assert float(near) == pytest.approx(1e-18 * float(S1.trace()), rel=1e-6)


def test_points_are_euclidean_and_all_pairs_broadcast() -> None:
    m, S = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), torch.zeros(3, 2, 2)
    table = squared_distance(m[:, None], S[:, None], m, S)
    assert table.dtype == torch.float64
    assert table.tolist() == [[0, 25, 100], [25, 0, 25], [100, 25, 0]]


THRESHOLDS = {
    "relative": {"tau_d": None, "kappa": 0.25, "tau_g": None, "tau_v": None},
    "relative-and-similar": {"tau_d": None, "kappa": 0.6, "tau_g": None, "tau_v": 0.1},
    "absolute": {"tau_d": 0.15, "tau_g": None, "tau_v": None},
    "all-three": {"tau_d": 0.3, "tau_g": 2e-3, "tau_v": 0.3},
}


@pytest.mark.parametrize("name", sorted(THRESHOLDS))
@pytest.mark.parametrize("seed", [0, 1])
def test_merging_is_greedy_and_leaves_no_admissible_pair(name: str, seed: int) -> None:
    clusters = random_clusters(40, seed)
    gradients = 0.05 * torch.randn(40, generator=torch.Generator().manual_seed(seed)).double()
    expected = slowly_merged(clusters, gradients, w2(**THRESHOLDS[name]))
    found = sets(merge_near(clusters, gradients, w2(**THRESHOLDS[name])))
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    assert 1 < len(found) < 40  # neither nothing nor everything


def test_merged_clusters_are_moment_matched() -> None:
    n, s = torch.tensor([3.0, 7.0], dtype=torch.float64), torch.stack([S1, S2])
    x, up = torch.stack([M1, M2]).T
    rows = [n, n * x, n * (x * x + s[:, 0, 0]), -n, n, -n * x, n * up, n * (up * up + s[:, 1, 1])]
    clusters = Moments(torch.stack([*rows, n * (x * up + s[:, 0, 1])]))
    merged = merge_near(clusters, None, w2(tau_d=0.004, tau_v=None))
    assert merged.tolist() == [0, 0]
    both = clusters.pooled(merged, 1)
    assert float(both.mean_of("x")) == pytest.approx(0.0121, rel=1e-12)
    assert float(both.mean_of("s")) == pytest.approx(0.0186, rel=1e-12)
    expected = torch.tensor([[3.79e-6, -1.1e-6], [-1.1e-6, 6.34e-6]], dtype=torch.float64)
    torch.testing.assert_close(both.covariance("x", "s")[0], expected, rtol=1e-9, atol=0)
    # W2 = 0.003887 of the two: just below tau_d = 0.0039, not below 0.00388
    assert merge_near(clusters, None, w2(tau_d=0.00388, tau_v=None)).tolist() == [0, 1]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), kappa=st.sampled_from([0.2, 0.5, 1.0]))
def test_relative_thresholds_do_not_depend_on_the_unit(seed: int, kappa: float) -> None:
    chosen = w2(tau_d=None, kappa=kappa, tau_g=None)
    merged = merge_near(random_clusters(30, seed), None, chosen)
    assert torch.equal(merge_near(random_clusters(30, seed, unit=1e-3), None, chosen), merged)


def test_a_distance_of_zero_is_not_below_zero() -> None:
    twice = Moments(random_clusters(6, 0).table.repeat(1, 2))
    assert merge_near(twice, None, w2(tau_d=0.0)).tolist() == list(range(12))
    assert merge_near(twice, None, w2(tau_d=1e-12)).tolist() == [0, 1, 2, 3, 4, 5] * 2


@pytest.mark.parametrize("tau_d", [1e9, 1e300], ids=["large", "square-overflows"])
def test_without_thresholds_one_cluster_is_left(tau_d: float) -> None:
    gradients = torch.randn(50).double()
    merged = merge_near(random_clusters(50, 3), gradients, w2(tau_d=tau_d, tau_g=None, tau_v=None))
    assert merged.tolist() == [0] * 50


def test_gradients_that_disagree_keep_clusters_apart() -> None:
    clusters = random_clusters(1, 0).table.repeat(1, 2)
    clusters[1, 1] += 0.001 * clusters[0, 1]  # x of the second up by 0.001
    chosen = w2(tau_d=0.1, tau_g=1e-3, tau_v=None)
    agree, disagree = torch.tensor([1.0, 1.0]), torch.tensor([2.0, -2.0])
    assert merge_near(Moments(clusters), agree, chosen).tolist() == [0, 0]
    assert merge_near(Moments(clusters), disagree, chosen).tolist() == [0, 1]  # |2 + 2| 0.001 / 2 = 0.002
    assert merge_near(Moments(clusters), None, chosen).tolist() == [0, 0]


@pytest.mark.benchmarks
def test_thousands_of_clusters_are_compared_and_merged_in_seconds() -> None:
    def seconds(clusters: Moments, tau_d: float) -> float:
        start = time.perf_counter()
        merge_near(clusters, None, w2(tau_d=tau_d, tau_g=None, tau_v=None))
        return time.perf_counter() - start

    with threads(1):
        pairs, merging = seconds(random_clusters(6000, 0), 0.0), seconds(random_clusters(2048, 0), 1e9)
    print(f"\nall pairs of 6000: {pairs:.2f} s; 2048 clusters down to one: {merging:.2f} s")
    assert pairs < 3
    assert merging < 5
