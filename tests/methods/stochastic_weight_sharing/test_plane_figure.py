"""The picture of the plane: what is in it, and that equal input gives equal text."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.figures import read_figures, write_figure
from methods.stochastic_weight_sharing import figure
from methods.stochastic_weight_sharing.figure import density, ellipses, plane_figure, view_of
from methods.stochastic_weight_sharing.sharing.moments import ROWS, Moments
from methods.stochastic_weight_sharing.sharing.plane import Plane
from methods.stochastic_weight_sharing.sharing.shared import Ellipses, Outliers, Shared, label_dtype

NONE = torch.zeros(0, dtype=torch.int64)


def moments_of(x: torch.Tensor, s: torch.Tensor) -> Moments:
    x, s, log_s = x.double(), s.double(), s.double().log()
    one = torch.ones_like(x)
    table = [one, x, x * x, log_s, log_s**2, x * log_s, s, s * s, x * s]
    assert len(table) == len(ROWS)
    return Moments(torch.stack(table))


def case(n: int = 6000, components: int = 8, outliers: int = 20) -> tuple[Plane, Shared]:
    """Two tensors of different scale, clusters by intervals of x."""
    g = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(n, generator=g), torch.exp(0.3 * torch.randn(n, generator=g) - 4)
    half = n // 2
    plane = Plane({"a": mu[:half], "b": 3 * mu[half:]}, {"a": sigma[:half], "b": 3 * sigma[half:]}, {"a": 1, "b": 3})
    labels = mu.argsort().argsort() * components // n
    index = mu.abs().topk(outliers).indices.sort().values
    shared = Shared(
        plane.shapes,
        plane.scale,
        labels.to(label_dtype(components)),
        moments_of(mu, sigma).pooled(labels, components),
        Outliers(index, mu[index], sigma[index]),
        Ellipses.none(),
        NONE,
    )
    return plane, shared


def test_every_weight_of_the_view_is_counted_where_it_lies(monkeypatch):
    plane, _ = case()
    monkeypatch.setattr("methods.stochastic_weight_sharing.sharing.plane.CHUNK", 1000)
    view = view_of(plane)
    x, s = plane.at(torch.arange(len(plane)))
    limits = [[view.left, view.right], [view.low, view.high]]
    expected = np.histogram2d(x.numpy(), s.log().numpy(), bins=figure.CELLS, range=limits)[0]
    found = density(plane, view)
    assert found.sum() == expected.sum() == len(plane)
    assert np.abs(found - expected).sum() <= 4  # points on an edge, in float32


def test_the_view_leaves_out_the_far_tails_only():
    mu = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    mu[0], mu[1] = 1000.0, -1000.0
    view = view_of(Plane({"w": mu}, {"w": torch.full_like(mu, 0.1)}, {"w": 1.0}))
    assert -6 < view.left < -3.5
    assert 3.5 < view.right < 6
    assert view.low < math.log(0.1) < view.high


def test_an_ellipse_holds_95_per_cent_of_a_gaussian_cluster():
    g = torch.Generator().manual_seed(1)
    z = torch.randn(40_000, 2, generator=g, dtype=torch.float64)
    points = z @ torch.tensor([[0.2, 0.3], [0.0, 0.1]], dtype=torch.float64) + torch.tensor([0.5, -4.0])
    path = ellipses(moments_of(points[:, 0], points[:, 1].exp()).pooled(torch.zeros(40_000, dtype=torch.int64), 1))
    outline = path.interpolated(1)
    outline = type(path)(np.column_stack([outline.vertices[:, 0], np.log(outline.vertices[:, 1])]), outline.codes)
    share = float(outline.contains_points(points.numpy()).mean())
    assert share == pytest.approx(0.95, abs=0.006)  # three standard errors, and the curve's 3e-4


def text_of(svg: str) -> str:
    return " ".join(
        "".join(element.itertext()) for element in ET.fromstring(svg).iter() if element.tag.endswith("text")
    )


def test_equal_input_gives_equal_text_which_is_a_legal_small_figure(tmp_path: Path):
    plane, shared = case()
    svg = plane_figure(plane, shared, NONE)
    assert svg == plane_figure(plane, shared, NONE)
    write_figure(tmp_path, "plane", svg, "The plane.")
    assert [each.caption for each in read_figures(tmp_path)] == ["The plane."]
    assert len(svg) < 100_000
    assert "<dc:date>" not in svg


def test_labels_are_text_and_count_what_is_there():
    plane, shared = case()
    shown = text_of(plane_figure(plane, shared, torch.arange(0, 300, 3)))
    for part in (
        "8 shared Gaussians (95 % of each)",
        "20 outliers",
        "100 ellipse points",
        "mean μ / r",
        "weights per cell",
    ):
        assert part in shown
    assert "ellipse points" not in text_of(plane_figure(plane, shared, NONE))


def test_what_is_thinned_says_how_many_there_are():
    plane, shared = case(components=300, outliers=2500)
    shown = text_of(plane_figure(plane, shared, NONE))
    assert "300 shared Gaussians (95 % of each), 256 drawn" in shown
    assert "2,500 outliers, 1,000 drawn" in shown


def test_weights_all_in_one_place_are_still_drawn():
    mu = torch.full((50,), 0.25)
    plane = Plane({"w": mu}, {"w": torch.full((50,), 0.1)}, {"w": 1.0})
    labels = torch.zeros(50, dtype=torch.int64)
    clusters = moments_of(mu, torch.full((50,), 0.1)).pooled(labels, 1)
    none = Outliers(NONE, torch.zeros(0), torch.zeros(0))
    shared = Shared(plane.shapes, plane.scale, labels.to(torch.uint8), clusters, none, Ellipses.none(), NONE)
    assert density(plane, view_of(plane)).max() == 50
    assert "1 shared Gaussians" in text_of(plane_figure(plane, shared, NONE))


def test_clusters_far_out_and_without_spread_are_drawn_although_rounding_leaves_them_no_covariance():
    far = 1000 * torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(200).repeat_interleave(7)
    clusters = moments_of(far[labels], far[labels] / 1000).pooled(labels, 200)
    assert float(torch.linalg.eigvalsh(clusters.covariance("x", "l")).min()) < -1e-12
    corners = torch.from_numpy(ellipses(clusters).vertices).view(200, 13, 2)
    assert torch.allclose(corners[..., 0], far[:, None].expand(-1, 13), atol=1e-3)
    assert bool(corners.isfinite().all())
