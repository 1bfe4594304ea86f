"""Small networks whose weights are shared in some known way, and posteriors of them as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from small_problems import with_statistics
from torch import Tensor, nn

from benchmark import BitReader, BitWriter
from methods.finetuning.points import Points
from methods.stochastic_weight_sharing.posterior import SharedPosterior
from methods.stochastic_weight_sharing.sharing.moments import Moments
from methods.stochastic_weight_sharing.sharing.shared import Ellipses, Outliers, Shared, label_dtype
from methods.stochastic_weight_sharing.state import SharedState


class TwoConvolutions(nn.Module):
    """672 weights in three tensors; a convolution with a bias, batch norm and a head with a bias are the rest."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))


def network(seed: int = 0) -> nn.Module:
    """A `TwoConvolutions` with running statistics that differ from their defaults."""
    return with_statistics(TwoConvolutions, seed)


def scope_of(net: nn.Module) -> dict[str, Tensor]:
    """The weights that are shared: matrices and kernels."""
    return {name: value.detach() for name, value in net.named_parameters() if value.ndim >= 2}


@dataclass(frozen=True)
class PerWeight:
    """One entry per weight in flat order, float64: the Gaussians before sharing, r, and who is what."""

    x: Tensor
    s: Tensor
    r: Tensor


def per_weight(net: nn.Module, *, scaled: bool, seed: int = 0) -> PerWeight:
    """mu: the network's weights; sigma: spread by half a nat around a tenth of the tensor's deviation."""
    own = scope_of(net)
    generator = torch.Generator().manual_seed(seed)
    r = torch.cat([torch.full((w.numel(),), float(w.std()) if scaled else 1.0).double() for w in own.values()])
    deviation = torch.cat([w.double().std().expand(w.numel()) for w in own.values()])
    sigma = 0.1 * deviation * (0.5 * torch.randn(len(r), generator=generator).double()).exp()
    return PerWeight(torch.cat([w.double().reshape(-1) for w in own.values()]) / r, sigma / r, r)


def share(
    net: nn.Module, components: int = 5, *, outliers: int = 0, ellipses: int = 0, scaled: bool = True, seed: int = 0
) -> Shared:
    """Clusters of nearly equal size in the order of mu, and as many outliers and ellipse points, at random places."""
    own, points = scope_of(net), per_weight(net, scaled=scaled, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    picked = torch.randperm(len(points.x), generator=generator)
    outside, blended = picked[:outliers].sort().values, picked[outliers : outliers + ellipses].sort().values
    inlier = torch.ones(len(points.x), dtype=torch.bool).index_fill_(0, outside, False)
    labels = torch.zeros(len(points.x), dtype=torch.int64)
    rank = points.x[inlier].argsort().argsort()
    labels[inlier] = rank * components // len(rank)
    x, s = points.x[inlier], points.s[inlier]
    log_s = s.log()
    rows = torch.stack([torch.ones_like(x), x, x * x, log_s, log_s**2, x * log_s, s, s * s, x * s])
    clusters = Moments(rows).pooled(labels[inlier], components)
    level = torch.randint(256, (ellipses,), generator=generator).to(torch.uint8)
    return Shared(
        {name: w.shape for name, w in own.items()},
        {name: float(w.std()) if scaled else 1.0 for name, w in own.items()},
        labels.to(label_dtype(components)),
        clusters,
        Outliers(outside, points.x[outside], points.s[outside]),
        Ellipses(blended, (labels[blended] + 1) % components, level),
        blended,
    )


def state_of(net: nn.Module, shared: Shared, codebook: str = "1d") -> SharedState:
    """Biases and norms are trained."""
    rest = [name for name, _ in net.named_parameters() if name not in shared.shapes]
    return SharedState(net, shared, Points(net, rest, []), codebook)


def posterior_of(
    net: nn.Module,
    shared: Shared,
    *,
    codebook: str = "1d",
    sampling: str = "independent",
    storage: str = "compact",
    facts: dict[str, Any] | None = None,
) -> SharedPosterior:
    """Untrained: the clusters' own codewords."""
    return state_of(net, shared, codebook).posterior(sampling, storage, facts)


def seeded(seed: int = 7) -> torch.Generator:
    """A generator of a draw."""
    return torch.Generator().manual_seed(seed)


def bytes_of(posterior: SharedPosterior) -> bytes:
    """The encoded posterior."""
    out = BitWriter()
    posterior.encode(out)
    return out.finish()


def decoded(data: bytes, net: nn.Module) -> SharedPosterior:
    """The posterior, once every section has been read."""
    src = BitReader(data)
    posterior = SharedPosterior.decode(src, net)
    src.finish()
    return posterior


def flat(weights: Any, shared: Shared) -> Tensor:
    """The shared tensors in flat order (N,), copied."""
    return torch.cat([weights[name].reshape(-1) for name in shared.shapes]).clone()
