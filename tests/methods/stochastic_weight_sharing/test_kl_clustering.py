"""KL clustering against slow definitions: costs, Lloyd's iterations, seeds, and the special cases K = 1 and K >= N."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.stochastic_weight_sharing.sharing import cells, lloyd
from methods.stochastic_weight_sharing.sharing.cells import bin_points
from methods.stochastic_weight_sharing.sharing.lloyd import assign, cluster_kl, refine
from methods.stochastic_weight_sharing.sharing.moments import Moments, mean_kl
from methods.stochastic_weight_sharing.sharing.plane import Plane
from methods.stochastic_weight_sharing.sharing.seeding import seed
from methods.stochastic_weight_sharing.sharing.ward import Dendrogram


def seeded(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def heavy_tailed(count: int, value: int = 0) -> tuple[Tensor, Tensor]:
    """(x, s), float64."""
    normal = torch.randn(3, count, generator=seeded(value), dtype=torch.float64)
    return normal[0] * (0.5 * normal[1]).exp(), 0.1 * (0.7 * normal[2]).exp()


def unbinned(x: Tensor, s: Tensor) -> Moments:
    return bin_points(Plane({"w": x}, {"w": s}, {"w": 1.0}), (8, 8)).moments


def kl(x: Tensor, s: Tensor, a: Tensor, variance: Tensor) -> Tensor:
    """(N, K), by the definition."""
    gap = (x[:, None] - a).square()
    return (variance.log() - 2 * s.log()[:, None] + (s.square()[:, None] + gap) / variance - 1) / 2


def matched(x: Tensor, s: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Codewords by a loop over clusters."""
    a = torch.stack([x[labels == k].mean() for k in range(count)])
    second = torch.stack([(x.square() + s.square())[labels == k].mean() for k in range(count)])
    return a, second - a.square()


@pytest.mark.parametrize("block", [1, 8 * 7 * 100, 1 << 20], ids=["a row at a time", "uneven blocks", "one block"])
def test_each_weight_goes_to_the_codeword_of_least_kl(block, monkeypatch):
    monkeypatch.setattr(lloyd, "BLOCK_BYTES", block)
    x, s = heavy_tailed(730)
    a, variance = x[:7], s[:7].square() + 0.1
    assert torch.equal(assign(unbinned(x, s), a, variance), kl(x, s, a, variance).argmin(1))


def test_of_equal_codewords_the_first_is_taken():
    x, s = heavy_tailed(20)
    same = torch.ones(5, dtype=torch.float64)
    assert assign(unbinned(x, s), same, same).tolist() == [0] * 20


def test_unbinned_iterations_equal_brute_force():
    x, s = heavy_tailed(2000)
    labels = expected = x.argsort().argsort() * 12 // 2000
    for _ in range(6):
        expected = kl(x, s, *matched(x, s, expected, 12)).argmin(1)
    found, count = refine(unbinned(x, s), labels, 12, 6)
    assert count == 12
    assert torch.equal(found, expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_the_mean_kl_never_increases(value, groups):
    x, s = heavy_tailed(300, value)
    moments = unbinned(x, s)
    labels = torch.randint(groups, (300,), generator=seeded(value))
    values = []
    for iterations in range(8):
        found, count = refine(moments, labels, groups, iterations)
        values.append(mean_kl(moments.pooled(found, count)))
        assert found.unique().tolist() == list(range(count))
    assert all(after <= before for before, after in pairwise(values))


def test_the_mean_kl_of_binned_weights_is_that_of_their_labels(monkeypatch):
    monkeypatch.setattr(cells, "MOST_UNBINNED", 0)
    x, s = heavy_tailed(5000)
    binned = bin_points(Plane({"w": x}, {"w": s}, {"w": 1.0}), (50, 10))
    assert len(binned) < 500
    labels, count = cluster_kl(binned.moments, 20, seeded())
    of = binned.expand(labels, torch.int64)
    per_weight = kl(x, s, *matched(x, s, of, count)).gather(1, of[:, None]).mean()
    assert mean_kl(binned.moments.pooled(labels, count)) == pytest.approx(float(per_weight), rel=1e-10)


def test_groups_without_members_are_dropped():
    x, s = heavy_tailed(100)
    found, count = refine(unbinned(x, s), torch.randint(2, (100,), generator=seeded()) * 5 + 3, 20, 0)
    assert count == 2
    assert found.unique().tolist() == [0, 1]


def test_iterations_end_where_nothing_is_gained(monkeypatch):
    x, s = heavy_tailed(400)
    x[200:] += 1000
    calls: list[int] = []
    monkeypatch.setattr(lloyd, "assign", lambda *given: calls.append(1) or assign(*given))
    found, count = refine(unbinned(x, s), (torch.arange(400) >= 200).long(), 2, 50)
    assert (count, len(calls)) == (2, 1)
    assert torch.equal(found, (torch.arange(400) >= 200).long())


def test_one_cluster_has_the_mean_and_the_second_moment_of_all():
    x, s = heavy_tailed(500)
    moments = unbinned(x, s)
    labels, count = cluster_kl(moments, 1, seeded())
    a, variance = moments.pooled(labels, count).codewords()
    assert count == 1
    assert float(a) == pytest.approx(float(x.mean()), rel=1e-12)
    assert float(variance) == pytest.approx(float((s.square() + x.square()).mean() - x.mean().square()), rel=1e-12)


@pytest.mark.parametrize("more", [0, 5], ids=["as many", "more"])
def test_with_as_many_clusters_as_weights_nothing_is_lost(more):
    x, s = heavy_tailed(50)
    moments = unbinned(x, s)
    labels, count = cluster_kl(moments, 50 + more, seeded())
    assert (labels.tolist(), count) == (list(range(50)), 50)
    a, variance = moments.pooled(labels, count).codewords()
    assert torch.allclose(a, x, rtol=1e-12, atol=0)
    assert torch.allclose(variance.sqrt(), s, rtol=1e-9, atol=0)


def test_seeds_are_different_cells_and_follow_from_the_generator():
    x, s = heavy_tailed(300)
    moments = unbinned(x, s)
    a, variance = seed(moments, 100, seeded())
    assert len(a.unique()) == 100
    position = (a[:, None] == x).int().argmax(1)
    assert torch.allclose(variance.sqrt(), s[position], rtol=1e-6)
    assert torch.equal(a, seed(moments, 100, seeded())[0])
    assert not torch.equal(a, seed(moments, 100, seeded(1))[0])
    assert len(seed(moments, 1000, seeded())[0]) == 300


def test_equal_cells_can_be_seeds():
    same = torch.ones(100, dtype=torch.float64)
    a, _ = seed(unbinned(same, 0.1 * same), 70, seeded())
    assert a.tolist() == [1.0] * 70


def test_the_first_seeds_are_drawn_by_members_and_later_ones_by_cost():
    x, s = heavy_tailed(5000)
    x[17], x[18] = 3.0, 1e4  # the second is far away
    table = unbinned(x, s).table.clone()
    table[:, 17] *= 1e9  # a cell of a billion members
    first, _ = seed(Moments(table), 32, seeded())
    both, _ = seed(Moments(table), 64, seeded())
    assert torch.equal(both[:32], first)
    assert 3.0 in first.tolist()
    assert 1e4 not in first.tolist()
    assert 1e4 in both.tolist()


def test_merging_from_more_clusters_is_as_good_as_many_direct_iterations():
    """Section order of stage 2: 10 iterations at 4 K, Ward, 10 iterations, against 60 iterations at K."""
    moments = unbinned(*heavy_tailed(20_000))
    direct, count = refine(moments, assign(moments, *seed(moments, 32, seeded())), 32, 60)
    labels, start = cluster_kl(moments, 128, seeded())
    tree = Dendrogram.of(moments.pooled(labels, start), 32)
    merged, found = refine(moments, tree.cut(32)[labels], 32, 10)
    assert mean_kl(moments.pooled(merged, found)) < 1.03 * mean_kl(moments.pooled(direct, count))
