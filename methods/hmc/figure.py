"""The picture of a sampler: where the chains have been, and whether they agree about the function."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from methods.drawing import COLOURS, REFERENCE, drawn, labelled
from methods.hmc.diagnostics import LARGEST_RHAT, LARGEST_STRICT_RHAT, rank_rhat

Array = NDArray[np.floating[Any]]
LEGEND_CHAINS = 8


def sampling_figure(log_posterior: Array, log_probs: Array, *, strict: bool = False) -> str:
    """SVG text. log_posterior: (C, K) of the stored states. log_probs: (C, K, inputs, classes)."""

    def draw(left: Axes, right: Axes) -> None:
        _draw_traces(left, log_posterior)
        _draw_rhat(right, log_probs, LARGEST_STRICT_RHAT if strict else LARGEST_RHAT)

    return drawn(draw)


def _draw_traces(axes: Axes, log_posterior: Array) -> None:
    chains = len(log_posterior)
    for chain, values in enumerate(log_posterior):
        name = f"chain {chain + 1}" if chains <= LEGEND_CHAINS else None
        axes.plot(np.arange(1, len(values) + 1), values, lw=0.8, color=COLOURS[chain % len(COLOURS)], label=name)
    labelled(axes, "stored state", "log posterior (without constants)")


def _draw_rhat(axes: Axes, log_probs: Array, limit: float) -> None:
    found = rank_rhat(log_probs.reshape(*log_probs.shape[:2], -1))
    found = np.sort(found[np.isfinite(found)])
    if found.size:
        axes.plot(found, np.linspace(0, 1, found.size), color=COLOURS[0], lw=1.2)
    axes.axvline(limit, color=REFERENCE, ls="--", lw=0.8, label=f"{limit:g}")
    labelled(axes, "R-hat of a log-probability", "share of them below")
