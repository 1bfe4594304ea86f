"""The picture of the method: how the rounds went, and how many weights each value has."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from methods.fixed_weights.codebook import Codebook
from methods.fixed_weights.record import Round

INCHES, DPI = (8.0, 3.4), 90
PLACE = {"left": 0.09, "right": 0.98, "bottom": 0.2, "top": 0.9, "wspace": 0.5}
"""Of the panels, as shares of the figure: a computed layout takes longer than the drawing."""
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "fixing", "font.size": 9.0, "axes.linewidth": 0.6}
BARS, ACCURACY, ZERO = "#b8c4d0", "#b2182b", "#e08214"
LINES = "#2166ac"
MOST_PATHS = 1_000
"""Values beyond this number are drawn as an image: the file would grow without end."""


def fixing_figure(rounds: Sequence[Round], book: Codebook, b: int) -> str:
    """SVG text, about 720 px wide; equal input gives equal text.

    Left: share of the weights that each round fixed, the entropy of the labels after it, and the validation accuracy
    of the means before and after its clustering. Right: how many weights have each value; book is without sigma.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=INCHES)
        left, right = figure.subplots(1, 2, gridspec_kw=PLACE)
        _draw_rounds(left, rounds, len(book.labels))
        _draw_occupancy(right, book, b)
        figure.legend(loc="upper center", ncols=3, frameon=False, fontsize=8)
        out = io.StringIO()
        figure.savefig(out, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
        return out.getvalue()


def _draw_rounds(axes: Axes, rounds: Sequence[Round], weights: int) -> None:
    shares = [sum(pick.count for pick in one.picks) / weights for one in rounds]
    bars = axes.bar(range(len(rounds)), shares, color=BARS, width=0.8)
    axes.bar_label(bars, [f"{one.entropy_bits:.1f}" for one in rounds], fontsize=7, color="#444444")
    axes.set_xticks(range(len(rounds)), [f"{one.p:g}" for one in rounds], fontsize=7, rotation=45)
    axes.set_xlabel("share fixed after the round")
    axes.set_ylabel("share fixed in it (on top: entropy in bits)")
    before = [(x, one.before.accuracy) for x, one in enumerate(rounds) if one.before is not None]
    after = [(x, one.after.accuracy) for x, one in enumerate(rounds) if one.after is not None]
    if before and after:
        beside = axes.twinx()
        style: Any = {"color": ACCURACY, "marker": "o", "markersize": 3.5, "linewidth": 0.8}
        beside.plot(*zip(*before, strict=True), ls=":", fillstyle="none", label="accuracy before clustering", **style)
        beside.plot(*zip(*after, strict=True), label="after clustering", **style)
        beside.set_ylabel("validation accuracy", color=ACCURACY)
        beside.margins(y=0.25)
    axes.margins(y=0.1)


def _draw_occupancy(axes: Axes, book: Codebook, b: int) -> None:
    values = book.codes.cpu().numpy() * 2.0**-b
    counts = book.counts()[:-1].cpu().numpy()
    image = len(values) > MOST_PATHS
    axes.vlines(values, np.full(len(values), 0.5), counts, color=LINES, linewidth=0.9, rasterized=image)
    zero = values == 0
    axes.vlines(values[zero], np.full(int(zero.sum()), 0.5), counts[zero], color=ZERO, linewidth=1.4, label="value 0")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_xlabel(f"value, a multiple of 1/{2**b:,}")
    axes.set_ylabel(f"weights with it ({len(values):,} values)")
