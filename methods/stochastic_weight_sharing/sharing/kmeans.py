"""Lloyd's k-means in the standardised plane (x, l): engine `kmeans`, which the published source runs, and the start of
`gmm`."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark import MissingPackage
from methods.stochastic_weight_sharing.sharing.axes import Axes
from methods.stochastic_weight_sharing.sharing.moments import Moments

Backend = Literal["auto", "sklearn", "cuml"]


def cluster_kmeans(moments: Moments, groups: int, *, backend: Backend, seed: int) -> tuple[Tensor, int]:
    """Labels (M,) int64 without gaps and their number, at most `groups`; a cell counts as its members at their mean.

    backend: auto is cuml for moments on a GPU where it is installed, else sklearn. sklearn repeats bit by bit for a
    seed. With at least as many groups as cells, every cell is its own.

    Raises:
        MissingPackage: backend cuml, which is not installed.
    """
    if groups >= len(moments):
        return torch.arange(len(moments), device=moments.table.device), len(moments)
    sums = Axes.of(moments).sums(moments)
    points = (sums[1:3] / sums[0]).T.contiguous()
    on_gpu = backend == "cuml" or (backend == "auto" and points.is_cuda and find_spec("cuml") is not None)
    labels = (_with_cuml if on_gpu else _with_sklearn)(points, moments.n, groups, seed)
    kept, renumbered = labels.to(points.device, torch.int64).unique(return_inverse=True)
    return renumbered, len(kept)


def _with_sklearn(points: Tensor, n: Tensor, groups: int, seed: int) -> Tensor:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1, "openmp"):  # threads add up in the order in which they end
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than groups: the number tells
        found = KMeans(groups, n_init=1, random_state=seed).fit(points.cpu().numpy(), sample_weight=n.cpu().numpy())
    return torch.from_numpy(found.labels_)


def _with_cuml(points: Tensor, n: Tensor, groups: int, seed: int) -> Tensor:
    kmeans = cuml_kmeans()(n_clusters=groups, n_init=1, random_state=seed, output_type="numpy")
    own = (lambda tensor: tensor.contiguous()) if points.is_cuda else (lambda tensor: tensor.numpy())
    return torch.from_numpy(kmeans.fit(own(points), sample_weight=own(n)).labels_)


def cuml_kmeans() -> Any:
    """The class `cuml.cluster.KMeans`.

    Raises:
        MissingPackage: the package is not installed; says how to get it.
    """
    try:
        return import_module("cuml.cluster").KMeans
    except ModuleNotFoundError as error:
        if error.name != "cuml":  # the package is there, and lacks something itself
            raise
        raise MissingPackage(
            "backend 'cuml' needs the package cuml-cu12 (25.2 or newer, for CUDA 12), which is not installed here. "
            "Install it (pip install 'bnnbench[cuml-cu12]'), or set backend: sklearn (auto finds what is there)."
        ) from error
