"""Posteriors of other runs, weight by weight beside this row's: aligned to it first, or they would be of other units.

Xiao, Liu, Bamler (arXiv 2401.00611): ensembles and variational posteriors can be compared with aligned samples.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import torch
from matplotlib.axes import Axes
from torch import Tensor

from benchmark import ConfigError, Fact, NeededRun, Posterior
from methods.drawing import COLOURS, REFERENCE, drawn, labelled
from methods.hmc_rebasin.inputs import Material
from methods.hmc_rebasin.summary import summarise
from methods.symmetry.align import align
from methods.symmetry.match import Matching, match
from methods.symmetry.stack import applied, mean_of
from methods.symmetry.weight_space import Agreement, Comparison, DiagonalGaussian, compare

MANY = 2_000
"""Points above which they are drawn smaller."""
OWN_RUNS = 2
"""Needed runs before those of the setting `compare`: the samples and the control."""
DRAWS = 100
"""Draws of which deviations are taken; their sampling error is 7 %, and the same for any posterior."""
SHOWN = ("mu_pearson", "log_sigma_pearson", "kl_ab", "w2")
"""Of the agreement over all weights, what is a fact."""


@dataclass(frozen=True)
class Compared:
    """A run to be compared. label: its method, with a number from the second run of one method on."""

    label: str
    run: NeededRun


def compared_runs(material: Material) -> list[Compared]:
    """In the order of the setting.

    Raises:
        ConfigError: one is a point, without a spread.
    """
    seen: Counter[str] = Counter()
    found = []
    for run in material.ctx.needed[OWN_RUNS:]:
        if run.posterior.support == 1:
            raise ConfigError(
                f"compare names '{run.method}', whose posterior is a single set of weights without a spread. Legal: "
                "methods with two members or more, or with a distribution (deep_ensemble, mean_field, ...)"
            )
        seen[run.method] += 1
        found.append(Compared(run.method + (f"_{seen[run.method]}" if seen[run.method] > 1 else ""), run))
    return found


def compare_run(material: Material, compared: Compared) -> dict[str, Fact]:
    """Draws `compare-LABEL`, logs a record `compared` per tensor.

    Returns, over all weights with a distribution on both sides: compare_LABEL_mu_pearson, _log_sigma_pearson (missing
    where one side is constant), _kl: mean KL(row || run) per weight in nats, _w2: squared 2-Wasserstein distance per
    weight.
    """
    label, ctx = compared.label, material.ctx
    own = material.built.summary.gaussian()
    found = compare(own, aligned_gaussian(material, compared.run.posterior), seed=ctx.seed_for("compare") % 2**32)
    for name, one in found.tensors.items():
        ctx.log(event="compared", run=label, tensor=name, **_told(one))
    ctx.figure(
        f"compare-{label}",
        scatter_figure(found, label),
        f"Means and standard deviations of {len(found.scatter.values):,} of {found.overall.weights:,} weights, of this "
        f"posterior and of '{label}', whose hidden units have been matched to it. a: this posterior.",
        found.scatter.csv(),
    )
    overall = _told(found.overall)
    return {f"compare_{label}_{name.removesuffix('_ab')}": overall[name] for name in SHOWN if name in overall}


def _told(one: Agreement) -> dict[str, float | int]:
    """Without the correlations that do not exist."""
    return {name: value for name, value in asdict(one).items() if value is not None}


def aligned_gaussian(material: Material, posterior: Posterior) -> DiagonalGaussian:
    """Another posterior of the same network as a Gaussian per weight in this row's labelling.

    Matched by weights, whatever the row's samples were matched by: that needs no data, and can look at deviations.
    """
    generator = torch.Generator().manual_seed(material.ctx.seed_for("compare"))
    if posterior.support is None:
        return _of_distribution(material, posterior, generator)
    names = material.built.summary.mu
    draws = posterior.draws(posterior.support, generator)
    return _of_members(material, [{name: draw[name].clone() for name in names} for draw in draws])


def _of_members(material: Material, members: list[dict[str, Tensor]]) -> DiagonalGaussian:
    """Aligned among themselves, and by their mean to the row. Members are moved and not their deviations, which is the
    same for permutations, and right for rotations inside attention heads, too."""
    groups, own, how = material.groups, material.built.summary, _matching(material)
    among = align(groups, members, matching=how)
    there = match(groups, own.mu, mean_of(among.samples), how)
    moved = applied(groups, among.samples, [there] * len(members))
    return summarise(moved, own.frame_id, own.left_out).gaussian()


def _of_distribution(material: Material, posterior: Posterior, generator: torch.Generator) -> DiagonalGaussian:
    """Mean, and deviations of draws, permuted by one match that looks at both. Nothing is rotated: a rotated diagonal
    is none."""
    groups, own = material.groups, material.built.summary
    mean, sigma = moments(posterior, list(own.mu), generator)
    found = match(groups, own.mu, mean, _matching(material, rotates=False), sigmas=(own.sigma, sigma))
    mu, deviation = (groups.permuted(side, found.permutations) for side in (mean, sigma))
    return DiagonalGaussian(mu, deviation, own.frame_id)


def _matching(material: Material, rotates: bool = True) -> Matching:
    config, seed = material.config, material.ctx.seed_for("compare") % 2**31
    within = config.within_head if rotates else "none"
    return Matching("weight", restarts=config.restarts, seed=seed, within_head=within)


@torch.no_grad()
def moments(
    posterior: Posterior, names: list[str], generator: torch.Generator, draws: int = DRAWS
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean (the posterior's own, if it has one) and standard deviation (ddof 1) of named tensors, float32, from draws
    that stream by; sums in float64. The deviation of what is equal in all draws is exactly 0."""
    average: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    for number, draw in enumerate(posterior.draws(draws, generator), start=1):
        for name in names:
            value = draw[name].double()
            if number == 1:
                average[name], squares[name] = value.clone(), torch.zeros_like(value)
                continue
            away = value - average[name]  # Welford (1962)
            average[name] += away / number
            squares[name] += away * (value - average[name])
    own = posterior.mean() or average
    mean = {name: own[name].detach().float().clone() for name in names}
    return mean, {name: (squares[name] / (draws - 1)).sqrt().float() for name in names}


def scatter_figure(found: Comparison, label: str) -> str:
    """SVG text: mu and sigma of this posterior against those of the other."""

    def draw(left: Axes, right: Axes) -> None:
        values = found.scatter.values
        for axes, x, y, name, r in (
            (left, values[:, 0], values[:, 2], "mu", found.overall.mu_pearson),
            (right, values[:, 1], values[:, 3], "sigma", found.overall.log_sigma_pearson),
        ):
            axes.plot(x, y, ".", ms=2 if len(x) > MANY else 4, alpha=0.4, mew=0, color=COLOURS[0], rasterized=True)
            ends = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
            axes.plot(ends, ends, color=REFERENCE, lw=0.8)
            told = "" if r is None else f", r = {round(r, 2) + 0.0:.2f}" + (" (logarithms)" if name == "sigma" else "")
            axes.set_title(name + told, fontsize=9)
            labelled(axes, "this posterior", label, legend=False)
        left.locator_params(nbins=5)
        right.set_xscale("log")
        right.set_yscale("log")

    return drawn(draw)
