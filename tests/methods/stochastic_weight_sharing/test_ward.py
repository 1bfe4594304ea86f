"""Ward merging: the cost of a merge, the greedy order against brute force, and cuts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark import ConfigError
from methods.stochastic_weight_sharing.sharing.moments import ROWS, Moments, mean_kl
from methods.stochastic_weight_sharing.sharing.ward import Dendrogram


def clusters_of(n: Tensor, a: Tensor, variance: Tensor) -> Moments:
    """Clusters with these members and codewords; their members are points, s = 0, with some sum of l."""
    table = torch.zeros(len(ROWS), len(n), dtype=torch.float64)
    table[0], table[1], table[2], table[3] = n, n * a, n * (variance + a.square()), -5 * n
    return Moments(table)


def random_clusters(count: int, value: int) -> Moments:
    generator = torch.Generator().manual_seed(value)
    n = torch.randint(1, 1000, (count,), generator=generator).double()
    normal = torch.randn(2, count, generator=generator, dtype=torch.float64)
    return clusters_of(n, normal[0], 0.1 * normal[1].exp())


def total_kl(clusters: Moments) -> float:
    return mean_kl(clusters) * float(clusters.n.sum())


def cut(tree: Dendrogram, clusters: Moments, k: int) -> Moments:
    return clusters.pooled(tree.cut(k), k)


def test_the_cost_of_a_merge_is_the_worked_example():
    clusters = clusters_of(*torch.tensor([[3, 7], [0.01, 0.013], [4e-6, 1e-6]], dtype=torch.float64))
    tree = Dendrogram.of(clusters)
    assert tree.merges.tolist() == [[0, 1]]
    assert float(tree.costs) == pytest.approx(4.582388553791823, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_costs_are_the_rise_of_the_summed_kl_and_never_negative(count, value):
    clusters = random_clusters(count, value)
    tree = Dendrogram.of(clusters)
    assert (tree.costs >= 0).all()
    totals = torch.tensor([total_kl(cut(tree, clusters, k)) for k in range(count, 0, -1)], dtype=torch.float64)
    assert torch.allclose(totals.diff(), tree.costs, rtol=1e-8, atol=1e-9 * float(totals.abs().max()))


@pytest.mark.parametrize("value", range(4), ids=lambda value: f"seed {value}")
def test_every_merge_is_the_cheapest_of_all_pairs(value):
    clusters = random_clusters(40, value)
    tree = Dendrogram.of(clusters)
    for done, cost in enumerate(tree.costs.tolist()):
        groups = cut(tree, clusters, 40 - done)
        n, (a, variance) = groups.n, groups.codewords()
        both = n[:, None] + n
        second = (n * (variance + a.square()))[:, None] + n * (variance + a.square())
        merged = second / both - (((n * a)[:, None] + n * a) / both).square()
        own = n * variance.log()
        rise = (both * merged.log() - own[:, None] - own) / 2
        rise.fill_diagonal_(torch.inf)
        assert cost == pytest.approx(float(rise.min()), rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10_000))
def test_a_cut_at_k_has_k_groups_and_splits_none_of_the_next(count, value):
    tree = Dendrogram.of(random_clusters(count, value))
    finer = tree.cut(count)
    assert finer.tolist() == list(range(count))
    for k in range(count - 1, 0, -1):
        coarser = tree.cut(k)
        assert coarser.unique().tolist() == list(range(k))
        assert len(torch.stack([finer, coarser]).unique(dim=1)[0]) == k + 1
        finer = coarser


def test_merging_stops_where_it_was_told_and_knows_no_cut_below():
    clusters = random_clusters(30, 0)
    tree, whole = Dendrogram.of(clusters, down_to=12), Dendrogram.of(clusters)
    assert len(tree.merges) == 18
    assert torch.equal(tree.cut(12), whole.cut(12))
    for k in (11, 31):
        with pytest.raises(ConfigError, match=f"a cut at {k} groups is not in the dendrogram, which has 12 to 30"):
            tree.cut(k)


@pytest.mark.parametrize("down_to", [5, 9], ids=["as many", "more"])
def test_nothing_is_merged_where_there_are_no_more_clusters_than_wanted(down_to):
    tree = Dendrogram.of(random_clusters(5, 0), down_to)
    assert tree.merges.shape == (0, 2)
    assert tree.cut(5).tolist() == [0, 1, 2, 3, 4]


def test_equal_clusters_merge_first_and_for_nothing():
    n, a, variance = torch.rand(3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    tree = Dendrogram.of(clusters_of(n.repeat(2), a.repeat(2), variance.repeat(2)))
    assert torch.allclose(tree.costs[:10], torch.zeros(10, dtype=torch.float64), atol=1e-12)
    halves = tree.cut(10).view(2, 10)
    assert torch.equal(halves[0], halves[1])
