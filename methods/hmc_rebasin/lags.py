"""How fast a chain permutes its units: transpositions between its states against the time between them.

Xiao, Liu, Bamler (arXiv 2401.00611) need alignment across chains; a chain that mixes well needs it within, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from matplotlib.axes import Axes

from benchmark import Fact
from methods.drawing import COLOURS, REFERENCE, drawn, labelled
from methods.hmc_rebasin.alignment import matching_of
from methods.hmc_rebasin.inputs import Material
from methods.hmc_rebasin.limits import is_large, restarts_of_many
from methods.hmc_rebasin.pairs import State, across_chains, within_chains
from methods.hmc_rebasin.tables import csv_text
from methods.symmetry.match import match
from methods.symmetry.transpositions import Chance, Transpositions, chance, transpositions_of

LAGS = (1, 5, 20, 100)
"""Stored states between the two of a pair."""
PAIRS, PAIRS_OF_LARGE = 8, 2
"""Per lag, and across chains."""
ACROSS = "across"

Pairs = list[tuple[State, State]]


def transpositions_by_lag(material: Material) -> dict[str, Fact]:
    """NoT of the match of two states, relative to chance, by lag and across chains.

    Draws `transpositions`. Returns not_lag1, not_lag20 and not_across, means, as far as there are such pairs.
    """
    pairs = _pairs(material)
    found = _matched(material, pairs)
    groups = list(material.groups.sizes)
    header = ["pairs", "chain_a", "state_a", "chain_b", "state_b", "transpositions", "relative_to_chance", "z"]
    rows = [
        [name, *first, *second, one.total, one.normalised, one.z, *(one.per_group[group] for group in groups)]
        for name in pairs
        for (first, second), one in zip(pairs[name], found[name], strict=True)
    ]
    relative = {name: [one.normalised for one in each] for name, each in found.items()}
    expected = chance(*material.groups.sizes.values())
    material.ctx.figure(
        "transpositions",
        lag_figure(relative, expected),
        "Number of transpositions between two samples of one chain, by the number of stored states between them, and "
        f"of two chains, relative to {expected.mean:.4g}, the mean of random permutations. Bars: means. At the dashed "
        "line the labels of hidden units are forgotten (band: one standard deviation).",
        csv_text([*header, *(f"of_{group}" for group in groups)], rows),
    )
    shown = {"1": "not_lag1", "20": "not_lag20", ACROSS: "not_across"}
    return {fact: fmean(relative[name]) for name, fact in shown.items() if name in relative}


def _pairs(material: Material) -> dict[str, Pairs]:
    """Lag as text, or `across` -> pairs; without those that do not exist."""
    size = material.run.chains, material.run.per_chain
    most = PAIRS_OF_LARGE if is_large(material) else PAIRS
    every = {str(lag): within_chains(*size, lag, most) for lag in LAGS} | {ACROSS: across_chains(*size, most)}
    return {name: pairs for name, pairs in every.items() if pairs}


def _matched(material: Material, pairs: Mapping[str, Pairs]) -> dict[str, list[Transpositions]]:
    how = matching_of(material.problem, material.ctx, material.config, material.groups)
    restarts = restarts_of_many(material)

    def between(first: State, second: State) -> Transpositions:
        a, b = material.run.weights(*first), material.run.weights(*second)
        return transpositions_of(match(material.groups, a, b, how, restarts=restarts).permutations)

    return {name: [between(*pair) for pair in each] for name, each in pairs.items()}


def lag_figure(relative: Mapping[str, list[float]], expected: Chance) -> str:
    """SVG text. relative: lag, or `across` -> NoT of every pair over its mean by chance."""

    def draw(axes: Axes) -> None:
        deviation = expected.std / expected.mean if expected.mean else 0.0
        axes.axhspan(1 - deviation, 1 + deviation, color=REFERENCE, alpha=0.15, lw=0)
        axes.axhline(1, color=REFERENCE, ls="--", lw=0.8, label="chance")
        for place, (name, values) in enumerate(relative.items()):
            colour = COLOURS[1] if name == ACROSS else COLOURS[0]
            beside = [place + 0.04 * (index - (len(values) - 1) / 2) for index in range(len(values))]
            axes.plot(beside, values, "o", ms=4, mfc="none", mec=colour, mew=0.8)
            axes.hlines(fmean(values), place - 0.25, place + 0.25, color=colour, lw=1.6)
        names = ["across\nchains" if name == ACROSS else name for name in relative]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_ylim(-0.03, 1.08 * max(1 + deviation, *(max(values) for values in relative.values())))
        labelled(axes, "stored states between two samples", "transpositions relative to chance")

    return drawn(draw, panels=1)
