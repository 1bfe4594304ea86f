"""The picture of the method: the weights in the plane (mu, sigma), and the Gaussians that they share."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.moments import Moments
from methods.stochastic_weight_sharing.sharing.plane import Plane
from methods.stochastic_weight_sharing.sharing.shared import Shared

CELLS = (260, 150)
"""Of the density, along mu and along ln sigma."""
TAIL, TAIL_CELLS, MARGIN = 2e-5, 1 << 14, 0.05
"""The view leaves out this share of the weights on each side, and adds this share of its width."""
LEAST_HEIGHT = 0.7
"""In nats of sigma: deviations that are all but equal are drawn as a line."""
MOST_MARKS, MOST_GAUSSIANS = 1_000, 256
INSIDE = -2 * math.log(0.05)
"""Squared Mahalanobis radius of the ellipse that holds 95 % of a 2-d Gaussian."""
SMALLEST_SPREAD = 1e-12
INCHES, DPI = (7.0, 4.4), 90
PLOT, SCALE = (0.11, 0.105, 0.765, 0.82), (0.89, 0.105, 0.016, 0.82)
"""Left, bottom, width, height of the plane and of the colour scale, as shares of the figure."""
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "plane", "font.size": 9.0, "axes.linewidth": 0.6}
LEVELS = 12
DENSITY, GAUSSIANS, OUTLIERS, BEYOND = "Blues", "#b2182b", "#111111", "#e08214"


class View(NamedTuple):
    """What is drawn: x = mu/r from `left` to `right`, l = ln(sigma/r) from `low` to `high`."""

    left: float
    right: float
    low: float
    high: float


def plane_figure(plane: Plane, shared: Shared, beyond: Tensor) -> str:
    """SVG text of the weights in the plane, about 700 px wide; equal input gives equal text.

    The weights as a 2-d density, the shared Gaussians as the 95 % ellipses of their members in (x, l) (the 256 most
    populous), outliers and ellipse points as marks (at most 1,000 of each, evenly by flat index).
    beyond: flat indices of the ellipse points, int64 (|E|,), rising.
    """
    view = view_of(plane)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=INCHES)  # placed by hand: finding a layout takes as long as drawing
        axes = figure.add_axes(PLOT)
        _draw_density(figure, axes, plane, view)
        handles = [
            _draw_gaussians(axes, shared.clusters),
            _draw_marks(axes, plane, beyond, "ellipse points", BEYOND, "."),
            _draw_marks(axes, plane, shared.outliers.index, "outliers", OUTLIERS, "x"),
        ]
        _frame(figure, axes, view, [handle for handle in handles if handle is not None])
        return _rounded(_svg(figure))


def view_of(plane: Plane) -> View:
    """All weights but a share of 2e-5 on each side, and a margin."""
    low, high = torch.full((2,), torch.inf), torch.full((2,), -torch.inf)
    for point in _points(plane):
        low, high = low.minimum(point.amin(dim=1).cpu()), high.maximum(point.amax(dim=1).cpu())
    counts = np.zeros((2, TAIL_CELLS))
    for point in _points(plane):
        for axis in range(2):
            cell = _cells(point[axis], float(low[axis]), float(high[axis]), TAIL_CELLS)
            counts[axis] += torch.bincount(cell, minlength=TAIL_CELLS).cpu().numpy()
    ends: list[float] = []
    for axis in range(2):
        share = counts[axis].cumsum() / len(plane)
        first, last = np.searchsorted(share, [TAIL, 1 - TAIL], side="right").clip(max=TAIL_CELLS - 1)
        step = float(high[axis] - low[axis]) / TAIL_CELLS
        begin, end = float(low[axis]) + first * step, float(low[axis]) + (last + 1) * step
        margin = MARGIN * (end - begin)
        if axis == 1:
            margin = max(margin, (LEAST_HEIGHT - (end - begin)) / 2)
        ends += [begin - (margin or 0.5), end + (margin or 0.5)]  # or: all weights in one place
    return View(*ends)


def density(plane: Plane, view: View) -> npt.NDArray[np.int64]:
    """Weights per cell of the view, (across, up); those outside of it are not counted."""
    across, up = CELLS
    counts = np.zeros(across * up, dtype=np.int64)
    for x, log_s in _points(plane):
        inside = (x >= view.left) & (x <= view.right) & (log_s >= view.low) & (log_s <= view.high)
        cell = _cells(x[inside], view.left, view.right, across) * up + _cells(log_s[inside], view.low, view.high, up)
        counts += torch.bincount(cell, minlength=across * up).cpu().numpy()
    return counts.reshape(across, up)


def ellipses(clusters: Moments) -> Path:
    """The 95 % ellipses of clusters in (x, sigma/r), as four cubic curves each; sigma is ln-transformed by the axes."""
    centre = torch.stack([clusters.mean_of("x"), clusters.mean_of("l")], dim=1).cpu()  # (K, 2)
    root = math.sqrt(INSIDE) * _root(clusters.covariance("x", "l").cpu())
    points = centre[:, None] + _CIRCLE @ root.mT  # (K, 13, 2); affine: control points map to control points
    points[..., 1].exp_()
    codes = [Path.MOVETO, *[Path.CURVE4] * 12]
    return Path(points.reshape(-1, 2).numpy(), codes * len(clusters))


def _root(covariance: Tensor) -> Tensor:
    """Lower triangular L (K, 2, 2), L L^T = covariance, of matrices that rounding may have left without a Cholesky
    factor."""
    root = torch.zeros_like(covariance)
    root[:, 0, 0] = (covariance[:, 0, 0].clamp(min=0) + SMALLEST_SPREAD).sqrt()
    root[:, 1, 0] = covariance[:, 1, 0] / root[:, 0, 0]
    root[:, 1, 1] = ((covariance[:, 1, 1] - root[:, 1, 0].square()).clamp(min=0) + SMALLEST_SPREAD).sqrt()
    return root


def _unit_circle() -> Tensor:
    """Control points (13, 2) of four cubic curves, off the circle by 3e-4."""
    k = 4 / 3 * math.tan(math.pi / 8)
    quarter = torch.tensor([[1, k], [k, 1], [0, 1]], dtype=torch.float64)
    turn = torch.tensor([[0, 1], [-1, 0]], dtype=torch.float64)
    quarters = [quarter @ torch.linalg.matrix_power(turn, times) for times in range(4)]
    return torch.cat([torch.tensor([[1.0, 0.0]], dtype=torch.float64), *quarters])


_CIRCLE = _unit_circle()


def _points(plane: Plane) -> Iterator[Tensor]:
    """(x, l), (2, m), piece by piece."""
    for piece in plane.pieces():
        yield torch.stack([piece.x, piece.s.log()])


def _cells(values: Tensor, low: float, high: float, count: int) -> Tensor:
    return ((values - low) * (count / max(high - low, SMALLEST_SPREAD))).long().clamp_(0, count - 1)


def _draw_density(figure: Figure, axes: Axes, plane: Plane, view: View) -> None:
    counts = density(plane, view)
    behind = axes.inset_axes((0, 0, 1, 1), zorder=-1)  # linear in ln s: the image is embedded cell by cell
    behind.set_axis_off()
    axes.set_facecolor("none")
    norm, colours = LogNorm(1, max(2, int(counts.max()))), matplotlib.colormaps[DENSITY].resampled(LEVELS)
    shown = np.ma.masked_equal(counts.T, 0)
    mesh = behind.imshow(shown, colours, norm, aspect="auto", interpolation="none", origin="lower")
    bar = figure.colorbar(mesh, cax=figure.add_axes(SCALE))
    bar.set_label("weights per cell")
    if bar.solids is not None:
        bar.solids.set_rasterized(True)


def _draw_gaussians(axes: Axes, clusters: Moments) -> Line2D:
    most = clusters.n.argsort(descending=True, stable=True)[:MOST_GAUSSIANS]
    path = ellipses(clusters.chosen(most))
    axes.add_patch(PathPatch(path, facecolor="none", edgecolor=GAUSSIANS, linewidth=0.5, alpha=0.75, zorder=3))
    label = _label(len(clusters), "shared Gaussians (95 % of each)", len(most))
    return Line2D([], [], color=GAUSSIANS, linewidth=0.9, label=label)


def _draw_marks(axes: Axes, plane: Plane, index: Tensor, what: str, colour: str, mark: str) -> Line2D | None:
    if len(index) == 0:
        return None
    drawn = min(len(index), MOST_MARKS)
    even = torch.linspace(0, len(index) - 1, drawn, dtype=torch.float64).long().to(index.device)
    x, s = plane.at(index[even])
    style: Any = {
        "color": colour,
        "marker": mark,
        "linestyle": "none",
        "markersize": 2.5,
        "markeredgewidth": 0.5,
        "antialiased": False,
    }
    axes.plot(x.cpu().numpy(), s.cpu().numpy(), zorder=1, rasterized=True, **style)
    return Line2D([], [], label=_label(len(index), what, drawn), **style)


def _label(there: int, what: str, drawn: int) -> str:
    return f"{there:,} {what}" + ("" if drawn == there else f", {drawn:,} drawn")


def _frame(figure: Figure, axes: Axes, view: View, handles: list[Line2D]) -> None:
    axes.set_yscale("log")
    axes.set_xlim(view.left, view.right)
    axes.set_ylim(math.exp(view.low), math.exp(view.high))
    axes.set_xlabel("mean \N{GREEK SMALL LETTER MU} / r")
    axes.set_ylabel("standard deviation \N{GREEK SMALL LETTER SIGMA} / r")
    figure.legend(handles=handles, loc="upper left", ncols=3, frameon=False, fontsize=8, columnspacing=1.2)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _rounded(svg: str) -> str:
    """Coordinates of paths to tenths of a point: the ellipses of 256 Gaussians are most of the file."""
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\d\.\d)\d+", r"\1", path[0]), svg)
