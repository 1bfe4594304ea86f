"""Two posteriors compared weight by weight, once both label their units alike."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import Tensor

from methods.symmetry.frames import require_one_frame

POINTS = 20_000
"""Points of a scatter plot: more are a black cloud."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mu, diag(sigma^2)) over named tensors. frame_id: the labelling of the units; after matching to a reference,
    that of the reference. Entries with sigma = 0 have no distribution and take no part in comparisons."""

    mu: Mapping[str, Tensor]
    sigma: Mapping[str, Tensor]
    frame_id: str


@dataclass(frozen=True)
class Agreement:
    """How two diagonal Gaussians agree over some weights.

    Correlations of mu and of log sigma, None where one side is constant. kl_ab, kl_ba: mean KL(a || b) and KL(b || a)
    per weight in nats. w2: squared 2-Wasserstein distance per weight.
    """

    weights: int
    mu_pearson: float | None
    mu_spearman: float | None
    log_sigma_pearson: float | None
    log_sigma_spearman: float | None
    kl_ab: float
    kl_ba: float
    w2: float


@dataclass(frozen=True)
class Scatter:
    """A random selection of weights, in the order of the tensors. values: (n, 4) mu and sigma of a, then of b."""

    names: tuple[str, ...]
    values: Values

    def csv(self) -> str:
        """With a header; nine digits, which give float32 back."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["tensor", "mu_a", "sigma_a", "mu_b", "sigma_b"])
        writer.writerows(
            [name, *(f"{value:.9g}" for value in row)]
            for name, row in zip(self.names, self.values.tolist(), strict=True)
        )
        return out.getvalue()


@dataclass(frozen=True)
class Comparison:
    """tensors: by name; those without a distribution on both sides are missing. overall: all their weights as one."""

    tensors: Mapping[str, Agreement]
    overall: Agreement
    scatter: Scatter


def compare(a: DiagonalGaussian, b: DiagonalGaussian, *, points: int = POINTS, seed: int = 0) -> Comparison:
    """Compare two posteriors of one architecture in one labelling. `seed` selects the points of the scatter plot.

    Raises:
        FrameError: the units are labelled differently.
        ValueError: names or shapes differ, or no weight has a distribution on both sides.
    """
    require_one_frame(a=a.frame_id, b=b.frame_id)
    shapes = [{name: tensor.shape for name, tensor in one.items()} for one in (a.mu, a.sigma, b.mu, b.sigma)]
    if any(other != shapes[0] for other in shapes[1:]):
        raise ValueError("the means and deviations of both sides need the same names and shapes")
    columns = {}
    for name in a.mu:
        values = np.stack([_flat(one[name]) for one in (a.mu, a.sigma, b.mu, b.sigma)])
        values = values[:, (values[1] > 0) & (values[3] > 0)]
        if values.shape[1]:
            columns[name] = values
    if not columns:
        raise ValueError("no weight has a sigma above 0 on both sides; there is nothing to compare")
    whole = np.concatenate(list(columns.values()), 1)
    return Comparison(
        {name: agreement(*values) for name, values in columns.items()},
        agreement(*whole),
        _scatter(columns, whole, points, seed),
    )


def agreement(mu_a: Values, sigma_a: Values, mu_b: Values, sigma_b: Values) -> Agreement:
    """Of flat arrays (n,), float64, sigma > 0."""
    log_a, log_b = np.log(sigma_a), np.log(sigma_b)
    return Agreement(
        len(mu_a),
        pearson(mu_a, mu_b),
        pearson(rankdata(mu_a), rankdata(mu_b)),
        pearson(log_a, log_b),
        pearson(rankdata(log_a), rankdata(log_b)),
        float(kl(mu_a, sigma_a, mu_b, sigma_b).mean()),
        float(kl(mu_b, sigma_b, mu_a, sigma_a).mean()),
        float(w2_squared(mu_a, sigma_a, mu_b, sigma_b).mean()),
    )


def kl(mu_a: Values, sigma_a: Values, mu_b: Values, sigma_b: Values) -> Values:
    """KL(N(mu_a, sigma_a^2) || N(mu_b, sigma_b^2)) per weight, in nats."""
    ratio = sigma_a / sigma_b
    moved = (mu_a - mu_b) / sigma_b
    divergence: Values = 0.5 * (ratio * ratio + moved * moved - 1) - np.log(ratio)
    return divergence


def w2_squared(mu_a: Values, sigma_a: Values, mu_b: Values, sigma_b: Values) -> Values:
    """Squared 2-Wasserstein distance per weight; its sum is that of the joint diagonal Gaussians."""
    return np.square(mu_a - mu_b) + np.square(sigma_a - sigma_b)


def pearson(x: Values, y: Values) -> float | None:
    """Correlation, in -1..1; None of fewer than two values or where one side is constant."""
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def _scatter(columns: Mapping[str, Values], whole: Values, points: int, seed: int) -> Scatter:
    count = whole.shape[1]
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(points, count), replace=False))
    stops = np.cumsum([values.shape[1] for values in columns.values()])
    names = list(columns)
    where = np.searchsorted(stops, chosen, side="right").tolist()
    return Scatter(tuple(names[position] for position in where), whole[:, chosen].T)


def _flat(tensor: Tensor) -> Values:
    return tensor.detach().to(dtype=torch.float64, device="cpu").flatten().numpy()
