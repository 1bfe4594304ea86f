"""Loss barriers between samples, before and after one is matched to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes

from benchmark import Fact
from methods.drawing import COLOURS, REFERENCE, drawn, labelled
from methods.finetuning.modes import norms
from methods.hmc_rebasin.alignment import matching_of
from methods.hmc_rebasin.inputs import Material
from methods.hmc_rebasin.limits import RESET_OF_MANY, is_large, reset_split
from methods.hmc_rebasin.pairs import State, across_chains, within_chains
from methods.hmc_rebasin.predictions import data_title
from methods.hmc_rebasin.tables import csv_text
from methods.symmetry.barrier import Barrier, barrier
from methods.symmetry.match import match
from methods.symmetry.matched import apply

PAIRS, PAIRS_OF_COSTLY = 4, 2
GRID, GRID_OF_COSTLY = 25, 11
"""Points of a line; 11 are the paper's. Costly are large networks, and those whose running statistics have to be
estimated at every point."""


@dataclass(frozen=True)
class Lines:
    """From one sample to another as it is, and to the other as it is matched to the first."""

    first: State
    second: State
    raw: Barrier
    matched: Barrier

    @property
    def name(self) -> str:
        """Chain and state of both ends, counted from 1."""
        return " - ".join(f"{chain + 1}.{state + 1}" for chain, state in (self.first, self.second))


def barriers(material: Material) -> dict[str, Fact]:
    """The loss along lines between samples far apart in a chain, and of different chains.

    Draws `barriers`. Running statistics are estimated anew at every point. Returns means over pairs: barrier_raw and
    barrier_matched in nats, error_barrier_raw and error_barrier_matched, shares of examples.
    """
    found = [_lines(material, *pair) for pair in far_pairs(material)]
    sides = {"raw": [one.raw for one in found], "matched": [one.matched for one in found]}
    header = ["chain_a", "state_a", "chain_b", "state_b", "side", "t", "loss", "error", "loss_excess", "error_excess"]
    rows = [
        [*one.first, *one.second, side, *point]
        for one in found
        for side, line in (("raw", one.raw), ("matched", one.matched))
        for point in zip(line.t, line.loss, line.error, line.loss_excess, line.error_excess, strict=True)
    ]
    material.ctx.figure(
        "barriers",
        lines_figure(found),
        f"Cross-entropy on {data_title(material)} along straight lines between two samples, minus the line between "
        "its values at both ends. Left: samples as they are; right: the second one matched to the first. Names: chain "
        "and stored state of both.",
        csv_text(header, rows),
    )
    facts: dict[str, Fact] = {}
    for side, lines in sides.items():
        facts[f"barrier_{side}"] = fmean(line.loss_barrier for line in lines)
        facts[f"error_barrier_{side}"] = fmean(line.error_barrier for line in lines)
    return facts


def far_pairs(material: Material) -> list[tuple[State, State]]:
    """Up to four (two of a costly network), half of them half a chain apart, half across chains."""
    chains, per_chain = material.run.chains, material.run.per_chain
    most = PAIRS_OF_COSTLY if is_costly(material) else PAIRS
    across = across_chains(chains, per_chain, most // 2)
    within = within_chains(chains, per_chain, per_chain // 2, most - len(across)) if per_chain > 1 else []
    return within + across


def is_costly(material: Material) -> bool:
    """Large, or with running statistics."""
    return is_large(material) or bool(norms(material.problem.network))


def _lines(material: Material, first: State, second: State) -> Lines:
    problem, ctx, groups = material.problem, material.ctx, material.groups
    a, b = material.run.weights(*first), material.run.weights(*second)
    moved = apply(groups, match(groups, a, b, matching_of(problem, ctx, material.config, groups)), b)
    seed = ctx.seed_for("barriers")
    reset = reset_split(problem, seed, RESET_OF_MANY)
    grid = GRID_OF_COSTLY if is_costly(material) else GRID
    raw, matched = (
        barrier(problem.network, a, end, material.split, grid, reset=reset, seed=seed) for end in (b, moved)
    )
    return Lines(first, second, raw, matched)


def lines_figure(found: Sequence[Lines]) -> str:
    """SVG text: the excess of the loss along each line, raw and matched on one scale."""

    def draw(left: Axes, right: Axes) -> None:
        right.sharey(left)
        for axes, title in ((left, "as sampled"), (right, "matched")):
            axes.axhline(0, color=REFERENCE, ls="--", lw=0.8)
            axes.set_title(title, fontsize=9)
        for one, colour in zip(found, COLOURS, strict=False):
            for axes, line in ((left, one.raw), (right, one.matched)):
                axes.plot(line.t, line.loss_excess, color=colour, lw=1.2, label=one.name)
        labelled(left, "way from one sample to the other", "excess of the loss (nats)", legend=False)
        labelled(right, "way from one sample to the other", "", legend=True)

    return drawn(draw)
