"""What a row tells about its sharing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmark import Fact
from methods.stochastic_weight_sharing.sharing.moments import Moments, mean_kl
from methods.stochastic_weight_sharing.sharing.settings import SharingSettings
from methods.stochastic_weight_sharing.sharing.shared import Shared


def sharing_facts(shared: Shared, settings: SharingSettings, start: int, merges: int) -> dict[str, Fact]:
    """Counts; mean KL in nats from an inlier's own Gaussian to the shared one; relative squared error of the inliers'
    means; entropy of their labels in bits.

    start: clusters that were asked for before merging. merges: unions of two; the engines may find fewer clusters than
    they were asked for, or give up small ones.
    """
    return {
        "scope": settings.scope,
        "cluster": settings.cluster,
        "weights": len(shared.labels),
        "gaussians_init": start,
        "merges": merges,
        **_counts(shared),
        **_quality(shared.clusters),
        "index_entropy_bits": entropy_bits(_label_counts(shared)),
    }


def joined_facts(parts: Sequence[Shared]) -> dict[str, Fact]:
    """The same for several codebooks together."""
    first = parts[0].facts
    inliers = [float(part.clusters.n.sum()) for part in parts]
    clusters = Moments(torch.cat([part.clusters.table for part in parts], dim=1))

    def summed(name: str) -> int:
        return sum(int(part.facts[name]) for part in parts)

    weights, outliers = summed("weights"), summed("outliers")
    return {
        **{name: first[name] for name in ("scope", "cluster")},
        **{name: summed(name) for name in ("weights", "gaussians_init", "merges", "outliers", "ellipses", "gaussians")},
        "codebooks": len(parts),
        "outlier_fraction": outliers / weights,
        **_quality(clusters),
        # A tensor's codebook is known: labels are told apart within it only.
        "index_entropy_bits": sum(
            n * float(part.facts["index_entropy_bits"]) for n, part in zip(inliers, parts, strict=True)
        )
        / sum(inliers),
    }


def entropy_bits(counts: Tensor) -> float:
    """Entropy in bits of the empirical distribution with these counts, zeros allowed."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log2()).sum()) + 0.0


def _label_counts(shared: Shared) -> Tensor:
    """(K,) int64: inliers by label, blended ones under the first of their two clusters."""
    counts = torch.bincount(shared.labels, minlength=shared.components)
    counts[0] -= len(shared.outliers.index)
    return counts


def _counts(shared: Shared) -> Mapping[str, Fact]:
    outliers = len(shared.outliers.index)
    return {
        "outliers": outliers,
        "outlier_fraction": outliers / len(shared.labels),
        "ellipses": len(shared.beyond),
        "gaussians": shared.components,
    }


def _quality(clusters: Moments) -> Mapping[str, Fact]:
    total = clusters.pooled(torch.zeros(len(clusters), dtype=torch.int64, device=clusters.table.device), 1)
    inside = float((clusters.covariance("x", "s")[:, 0, 0] * clusters.n).sum())
    overall = float(total.covariance("x", "s")[0, 0, 0] * total.n[0])
    return {"mean_kl_nats": mean_kl(clusters), "rel_mse_mu": max(inside, 0.0) / overall if overall > 0 else 0.0}
