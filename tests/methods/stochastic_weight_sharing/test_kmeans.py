"""Lloyd's k-means over cells: what it counts, that it repeats, and which package runs it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import sklearn.cluster
import torch
from plane_cases import binned, gaussian_groups, moments_of

from benchmark import MissingPackage
from methods.stochastic_weight_sharing.sharing.kmeans import cluster_kmeans
from methods.stochastic_weight_sharing.sharing.moments import Moments


def same_partition(first: torch.Tensor, second: torch.Tensor) -> bool:
    return len(torch.stack([first, second]).unique(dim=1)[0]) == len(first.unique()) == len(second.unique())


@pytest.mark.parametrize("unit", [1.0, 1e-3], ids=["unit-1", "unit-0.001"])
def test_separate_groups_are_found_in_any_unit(unit: float) -> None:
    group = torch.arange(1000) % 4
    noise = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).double()
    x, s = 3.0 * (group % 2) + 0.3 * noise[0], (2.0 * (group // 2) + 0.2 * noise[1]).exp()
    moments, cell = binned(unit * x, unit * s, (256, 64))
    labels, count = cluster_kmeans(moments, 4, backend="auto", seed=0)
    assert (labels.dtype, count) == (torch.int64, 4)
    assert same_partition(labels[cell], group)


def test_a_cell_counts_as_often_as_it_has_members() -> None:
    moments = moments_of(torch.tensor([0.0, 1.0, 2.1]), torch.full((3,), 0.1))
    alike, _ = cluster_kmeans(moments, 2, backend="sklearn", seed=0)
    assert same_partition(alike, torch.tensor([0, 0, 1]))
    crowded, _ = cluster_kmeans(
        Moments(moments.table * torch.tensor([100.0, 100.0, 1.0])), 2, backend="sklearn", seed=0
    )
    assert same_partition(crowded, torch.tensor([0, 1, 1]))


def test_a_seed_repeats_bit_by_bit() -> None:
    x, s, _ = gaussian_groups([3000, 3000], apart=1.0)
    moments = moments_of(x, s)
    first, _ = cluster_kmeans(moments, 50, backend="sklearn", seed=4)
    again, _ = cluster_kmeans(moments, 50, backend="sklearn", seed=4)
    other, _ = cluster_kmeans(moments, 50, backend="sklearn", seed=5)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("groups", [5, 6], ids=["as-many", "more"])
def test_every_cell_is_its_own_where_there_are_enough_groups(groups: int) -> None:
    x, s, _ = gaussian_groups([5])
    labels, count = cluster_kmeans(moments_of(x, s), groups, backend="sklearn", seed=0)
    assert (labels.tolist(), count) == ([0, 1, 2, 3, 4], 5)


def test_points_that_coincide_leave_fewer_clusters_without_gaps() -> None:
    x = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0])
    labels, count = cluster_kmeans(moments_of(x, x), 4, backend="sklearn", seed=0)
    assert count == 2
    assert same_partition(labels, torch.tensor([0, 0, 0, 1, 1]))
    assert labels.max() == 1


@pytest.mark.skipif(find_spec("cuml") is not None, reason="cuML is installed here")
def test_cuml_that_is_not_installed_is_named_with_its_extra() -> None:
    x, s, _ = gaussian_groups([10])
    with pytest.raises(MissingPackage, match=r"'cuml' .* not installed .*bnnbench\[cuml-cu12\].* backend: sklearn"):
        cluster_kmeans(moments_of(x, s), 2, backend="cuml", seed=0)


def cuml_kmeans(*, n_clusters: int, n_init: int, random_state: int, output_type: str) -> sklearn.cluster.KMeans:
    """sklearn's k-means behind the arguments of cuML's."""
    assert output_type == "numpy"
    return sklearn.cluster.KMeans(n_clusters, n_init=n_init, random_state=random_state)


def test_cuml_gets_the_points_weights_and_seed_that_sklearn_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    package, cluster = ModuleType("cuml"), ModuleType("cuml.cluster")
    cluster.KMeans = cuml_kmeans  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", package)
    monkeypatch.setitem(sys.modules, "cuml.cluster", cluster)
    x, s, _ = gaussian_groups([300, 300], apart=1.0)
    moments, _ = binned(x, s, (16, 8))
    expected, _ = cluster_kmeans(moments, 6, backend="sklearn", seed=2)
    found, count = cluster_kmeans(moments, 6, backend="cuml", seed=2)
    assert count == 6
    assert torch.equal(found, expected)
