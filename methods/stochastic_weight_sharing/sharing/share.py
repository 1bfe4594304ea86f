"""Stage 2 of stochastic weight sharing (Lin et al., AISTATS 2025): (mu, sigma) of every weight to shared Gaussians.

Outliers keep a Gaussian of their own; the others are clustered, near-identical clusters are merged, and who lies
outside of its cluster's ellipse may become a blend of two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark import seed_from
from methods.stochastic_weight_sharing.sharing.cells import Cells, bin_points
from methods.stochastic_weight_sharing.sharing.ellipses import beyond_ellipse, blend
from methods.stochastic_weight_sharing.sharing.em import FEWEST, cluster_gmm
from methods.stochastic_weight_sharing.sharing.facts import sharing_facts
from methods.stochastic_weight_sharing.sharing.join import codebook_groups, joined
from methods.stochastic_weight_sharing.sharing.kmeans import cluster_kmeans
from methods.stochastic_weight_sharing.sharing.lloyd import ITERATIONS, cluster_kl, refine
from methods.stochastic_weight_sharing.sharing.moments import Moments
from methods.stochastic_weight_sharing.sharing.outliers import by_gradient, costliest
from methods.stochastic_weight_sharing.sharing.plane import Plane, standard_deviations
from methods.stochastic_weight_sharing.sharing.settings import MOST_CELLS, SharingSettings
from methods.stochastic_weight_sharing.sharing.shared import Ellipses, Outliers, Shared, label_dtype
from methods.stochastic_weight_sharing.sharing.ward import Dendrogram
from methods.stochastic_weight_sharing.sharing.wasserstein import merge_near

AUTO_COMPONENTS = 256
AUTO_START, AUTO_START_KL = 2048, 512
WEIGHTS_PER_COMPONENT = 50
"""Fewest weights per component that an automatic number of components goes down to."""
CELLS_PER_CLUSTER = 8
"""Fewer cells than that per cluster and the grid is too coarse."""


@dataclass(frozen=True)
class Gradients:
    """Of the mean cross-entropy with respect to mu, by name, averaged over the batches of an epoch: themselves, and
    their absolute values."""

    mean: Mapping[str, Tensor]
    magnitude: Mapping[str, Tensor]


def share(
    mu: Mapping[str, Tensor],
    sigma: Mapping[str, Tensor],
    settings: SharingSettings | None = None,
    *,
    scale: Mapping[str, float] | None = None,
    gradients: Gradients | None = None,
    seed: int = 0,
) -> Shared:
    """Who shares which Gaussian.

    mu, sigma: means and standard deviations by name, of any source, floating point on one device; nothing is changed.
    settings: None for the recommended ones. scale: r by name, the unit of a tensor; default: the standard deviation of
    its mu (1 for scope global, whatever is given). gradients: for the outlier rule `gradient` and the threshold tau_g.
    seed: of the random starts of clustering.

    Raises:
        ConfigError: no weights; tensors that do not fit; a constant tensor without a scale; nobody left to share; the
            rule `gradient` without gradients.
        Diverged: a number that is not finite.
        MissingPackage: backend cuml where cuML is not installed.
    """
    settings = settings or SharingSettings()
    if settings.scope == "global":
        scale = dict.fromkeys(mu, 1.0)
    elif scale is None:
        scale = standard_deviations(mu)
    plane = Plane(mu, sigma, scale)
    groups = codebook_groups(plane, settings.scope)
    parts = [
        _share(plane.subset(names), settings, gradients, seed_from("sharing", seed, position))
        for position, names in enumerate(groups)
    ]
    return parts[0] if len(parts) == 1 else joined(plane, groups, parts)


def _share(plane: Plane, settings: SharingSettings, gradients: Gradients | None, seed: int) -> Shared:
    """One codebook."""
    making = _Sharing(plane, settings, gradients, seed)
    making.cluster()
    making.merge()
    if settings.outliers == "kl":
        making.part_with(making.costly())
    return making.result()


class _Sharing:
    """A codebook in the making: labels (M,) int64 of the cells of those who share, in `count` clusters; outliers, flat
    indices."""

    def __init__(self, plane: Plane, settings: SharingSettings, gradients: Gradients | None, seed: int) -> None:
        self.plane, self.settings, self.gradients, self.seed = plane, settings, gradients, seed
        self.merges = 0
        self.outliers = torch.zeros(0, dtype=torch.int64, device=plane.device)
        first = self.outliers
        if settings.outliers == "gradient":
            magnitudes = None if gradients is None else gradients.magnitude
            first = by_gradient(plane, magnitudes, settings.outlier_fraction, settings.outlier_size)
        self.start, self.components = sizes(settings, len(plane) - len(first))
        self.cells = self._binned = _binned(plane, settings, self.start)
        self.labels, self.count = torch.zeros(len(self.cells), dtype=torch.int64, device=plane.device), 1
        self.part_with(first)

    @property
    def clusters(self) -> Moments:
        """Of the members, without outliers."""
        return self.cells.moments.pooled(self.labels, self.count)

    def cluster(self) -> None:
        """The first labels, `start` clusters at most; what the engines leave too small becomes outliers."""
        moments = self.cells.moments
        if self.components >= len(moments):  # as many shared Gaussians as weights: nobody shares
            self.labels, self.count = torch.arange(len(moments), device=self.plane.device), len(moments)
            return
        if self.settings.cluster == "kl":
            generator = torch.Generator().manual_seed(self.seed)
            self.labels, self.count = cluster_kl(moments, self.start, generator)
            return
        kmeans_seed = self.seed % 2**31
        self.labels, self.count = cluster_kmeans(moments, self.start, backend=self.settings.backend, seed=kmeans_seed)
        by_rule = self.settings.outlier_cluster + 1 if self.settings.outliers == "gradient" else 0
        self._dissolve(max(by_rule, FEWEST))
        if self.settings.cluster == "gmm":
            self.labels, self.count = cluster_gmm(
                self.cells.moments, self.labels, self.count, self.settings.em_iterations
            )
            self._dissolve(FEWEST)

    def merge(self) -> None:
        """Fewer clusters: by thresholds, then, where a number was asked for, down to it."""
        if self.settings.merge == "w2":
            self._relabel(merge_near(self.clusters, self._gradient_sums(), self.settings))
        if self.settings.merge == "none" or self.settings.components is None or self.count <= self.components:
            return
        self._relabel(Dendrogram.of(self.clusters, self.components).cut(self.components))
        self._refine()

    def costly(self) -> Tensor:
        """The weights that sharing costs most."""
        count = round(self.settings.outlier_fraction * len(self.plane))
        labels = self.cells.expand(self.labels, label_dtype(self.count))
        return costliest(
            self.plane, labels, self.clusters, min(count, len(self.plane) - len(self.outliers)), self.outliers
        )

    def part_with(self, index: Tensor) -> None:
        """Make the weights with these flat indices outliers."""
        if not len(index):
            return
        left = torch.bincount(self.cells.of[index], minlength=len(self.cells))
        self.labels = self.labels[self.cells.moments.n > left]
        self.outliers = torch.cat([self.outliers, index]).sort().values
        self.cells = self._binned.without(self.plane, self.outliers)
        self._refine()

    def result(self) -> Shared:
        """Labels for weights instead of cells, ellipse points, and facts."""
        clusters = self.clusters
        labels = self.cells.expand(self.labels, label_dtype(self.count))
        del self.cells, self._binned  # eight bytes per weight that nothing below needs
        labels[self.outliers] = 0
        beyond = beyond_ellipse(self.plane, labels, self.outliers, clusters, self.settings.ellipse_quantile)
        ellipses = Ellipses.none(self.plane.device)
        if self.settings.blend == "moments":
            ellipses, first = blend(self.plane, beyond, labels, clusters)
            labels[ellipses.index] = first.to(labels.dtype)
        shared = Shared(
            self.plane.shapes,
            self.plane.scale,
            labels,
            clusters,
            Outliers(self.outliers, *self.plane.at(self.outliers)),
            ellipses,
            beyond,
        )
        return replace(shared, facts=sharing_facts(shared, self.settings, self.start, self.merges))

    def _refine(self) -> None:
        iterations = ITERATIONS if self.settings.cluster == "kl" else 0
        self.labels, self.count = refine(self.cells.moments, self.labels, self.count, iterations)

    def _relabel(self, groups: Tensor) -> None:
        """groups: (count,) int64, cluster -> merged cluster."""
        before, self.labels, self.count = self.count, groups[self.labels], int(groups.max()) + 1
        self.merges += before - self.count

    def _dissolve(self, members: int) -> None:
        """Make the members of clusters with fewer than `members` outliers."""
        small = self.clusters.n < members
        if bool(small.any()):
            leaving = self.cells.expand(small[self.labels], torch.bool)
            leaving[self.outliers] = False
            self.part_with(leaving.nonzero().squeeze(1))

    def _gradient_sums(self) -> Tensor | None:
        """(count,) float64: sum over members of d mean CE / d x = r g, or None without gradients."""
        if self.gradients is None:
            return None
        labels = self.cells.expand(self.labels, torch.int32)
        labels[self.outliers] = self.count
        total = torch.zeros(self.count + 1, dtype=torch.float64, device=labels.device)
        for (name, r), own in zip(self.plane.scale.items(), labels.split(self.plane.sizes), strict=True):
            g = self.gradients.mean[name].reshape(-1).double()
            total += r * torch.bincount(own, g, minlength=self.count + 1)
        return total[:-1]


def sizes(settings: SharingSettings, n: int) -> tuple[int, int]:
    """(clusters to start from, components to end with) for n weights; 1 where the thresholds alone decide."""
    most = max(1, n // WEIGHTS_PER_COMPONENT)
    if settings.components is None:
        components = 1
    else:
        components = min(AUTO_COMPONENTS, most) if settings.components == "auto" else settings.components
    if settings.merge == "none":
        return components, components
    if settings.components_init == "auto":
        wanted = max(AUTO_START_KL, 4 * components) if settings.cluster == "kl" else AUTO_START
        return max(components, min(wanted, most)), components
    return max(settings.components_init, components), components


def _binned(plane: Plane, settings: SharingSettings, clusters: int) -> Cells:
    """The cells of the grid, which is doubled while it has too few for so many clusters."""
    grid = settings.grid
    while True:
        cells = bin_points(plane, grid, stretched=settings.scope == "global")
        enough = len(cells) >= min(CELLS_PER_CLUSTER * clusters, len(plane))
        if enough or 4 * math.prod(grid) > MOST_CELLS:
            return cells
        grid = (2 * grid[0], 2 * grid[1])
