"""Figures of a fit as SVG text: one look for all methods, and equal text for equal numbers."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 90
WIDTH, HEIGHT = 4.0, 3.4
"""Inches of one panel."""
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "bnnbench", "font.size": 9.0, "axes.linewidth": 0.6}
COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#e08214", "#762a83", "#4d4d4d", "#35978f", "#c51b7d")
"""One per series, told apart in grey as well as may be."""
REFERENCE = "#888888"
"""Of lines that are no data: what chance or calibration would give."""


def drawn(draw: Callable[..., None], panels: int = 2) -> str:
    """SVG text, 360 px per panel. `draw` gets one `Axes` per panel."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * panels, HEIGHT), layout="constrained")
        axes: Any = figure.subplots(1, panels, squeeze=False)[0]
        draw(*axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
        return out.getvalue()


def labelled(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    """Axis titles, and a legend where there is room for it."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if legend and axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=7)
