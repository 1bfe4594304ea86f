"""Binning: who is in which cell, exact moments, and what is left when weights leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark import ConfigError
from methods.stochastic_weight_sharing.sharing import cells, plane
from methods.stochastic_weight_sharing.sharing.cells import Cells, bin_points
from methods.stochastic_weight_sharing.sharing.moments import ROWS
from methods.stochastic_weight_sharing.sharing.plane import Plane

GRID = (40, 12)


@pytest.fixture
def binned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few weights are binned too, in pieces that do not divide the tensors."""
    monkeypatch.setattr(cells, "MOST_UNBINNED", 0)
    monkeypatch.setattr(cells, "TAIL", 0.01)
    for module in (cells, plane):
        monkeypatch.setattr(module, "CHUNK", 700)


def points(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Plane:
    """3000 and 2001 heavy-tailed weights; the second tensor's are `scale` times as large."""
    generator = torch.Generator().manual_seed(0)
    mu, sigma = {}, {}
    for name, shape, size in (("a", (3, 1000), 1.0), ("b", (2001,), scale)):
        spread = torch.randn(shape, generator=generator, dtype=dtype).exp()
        mu[name] = size * spread * torch.randn(shape, generator=generator, dtype=dtype)
        sigma[name] = 0.1 * size * torch.randn(shape, generator=generator, dtype=dtype).exp()
    return Plane(mu, sigma, {"a": 1.0, "b": 1.0})


def flat(of: Plane) -> tuple[Tensor, Tensor]:
    return of.at(torch.arange(len(of)))


def reference_cells(x: np.ndarray, log_s: np.ndarray) -> np.ndarray:
    """Numbered in the order of (column, row) among those that have members."""
    index = []
    for values, count in zip((x, log_s), GRID, strict=True):
        ordered = np.sort(values)
        tail = int(0.01 * len(values))
        low, high = ordered[tail], ordered[-1 - tail]
        index.append(np.clip(np.floor((values - low) * count / (high - low)), 0, count - 1))
    return np.unique(index[0] * GRID[1] + index[1], return_inverse=True)[1]


def features(x: Tensor, s: Tensor) -> Tensor:
    log = s.log()
    return torch.stack([torch.ones_like(x), x, x * x, log, log * log, x * log, s, s * s, x * s]).double()


def assert_exact(found: Cells, x: Tensor, s: Tensor, members: Tensor) -> None:
    """Moments are the sums over the members, by a loop over cells."""
    for cell in range(len(found)):
        own = members & (found.of == cell)
        expected = features(x[own], s[own]).sum(1)
        error = (found.moments.table[:, cell] - expected).abs()
        assert (error <= 1e-12 * features(x[own], s[own]).abs().sum(1)).all(), (cell, ROWS)


@pytest.mark.usefixtures("binned")
def test_cells_are_those_of_a_grid_between_the_quantiles():
    made = points()
    x, s = flat(made)
    found = bin_points(made, GRID)
    assert found.of.dtype == torch.int32
    assert np.array_equal(found.of.numpy(), reference_cells(x.numpy(), s.log().numpy()))


@pytest.mark.usefixtures("binned")
def test_cells_of_a_stretched_axis_are_those_of_a_grid_over_asinh():
    made = points(scale=0.01)
    x, s = flat(made)
    typical = sorted([float(x[:3000].std(correction=0)), float(x[3000:].std(correction=0))])[0]
    found = bin_points(made, GRID, stretched=True)
    expected = reference_cells(np.arcsinh(x.numpy() / (0.1 * typical)), s.log().numpy())
    differing = np.mean(found.of.numpy() != expected) if len(found) == expected.max() + 1 else 1.0
    assert differing < 0.002  # asinh is computed in float32
    plain = bin_points(made, GRID)
    assert len(found.of[3000:].unique()) > 3 * len(plain.of[3000:].unique())


@pytest.mark.usefixtures("binned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_moments_are_exact_sums_over_the_members(dtype):
    made = points(dtype=dtype)
    x, s = (value.double() for value in flat(made))
    found = bin_points(made, GRID)
    assert (found.moments.n > 0).all()
    assert found.moments.n.sum() == len(made)
    assert_exact(found, x, s, torch.ones(len(made), dtype=torch.bool))


def test_each_of_a_few_weights_is_its_own_cell():
    made = points()
    found = bin_points(made, GRID)
    assert torch.equal(found.of, torch.arange(len(made), dtype=torch.int32))
    assert torch.equal(found.moments.table, features(*flat(made)))


def test_more_weights_than_that_are_binned():
    values = torch.randn(cells.MOST_UNBINNED + 1, generator=torch.Generator().manual_seed(0))
    found = bin_points(Plane({"a": values}, {"a": values.abs() + 1}, {"a": 1.0}), (64, 8))
    assert len(found) <= 64 * 8


@pytest.mark.usefixtures("binned")
@pytest.mark.parametrize("stretched", [False, True], ids=["plain", "stretched"])
def test_equal_weights_share_one_cell(stretched):
    found = bin_points(Plane({"a": torch.full((50,), 0.3)}, {"a": torch.full((50,), 0.1)}, {"a": 1.0}), GRID)
    assert len(found) == 1
    assert found.moments.n.tolist() == [50]


@pytest.mark.usefixtures("binned")
def test_cells_of_those_who_stay_are_what_binning_made_them():
    made = points()
    x, s = flat(made)
    before = bin_points(made, GRID)
    alone = before.of.bincount() == 1
    leaves = torch.rand(len(made), generator=torch.Generator().manual_seed(1)) < 0.2
    leaves |= alone[before.of]
    after = before.without(made, leaves.nonzero()[:, 0])
    stays = ~leaves
    assert len(after) < len(before)
    assert_exact(after, x, s, stays)
    assert after.moments.n.sum() == stays.sum()
    assert int(after.of.min()) >= 0
    assert int(after.of.max()) < len(after)
    remaining = before.of[stays].unique()
    assert torch.equal(remaining[after.of[stays]], before.of[stays])  # same cells, same order


@pytest.mark.usefixtures("binned")
def test_weights_can_leave_one_after_another():
    made = points()
    left = torch.arange(0, len(made), 7)
    before = bin_points(made, GRID)
    twice = before.without(made, left[:300]).without(made, left)
    once = before.without(made, left)
    assert torch.equal(twice.moments.table, once.moments.table)
    assert_exact(twice, *flat(made), torch.arange(len(made)) % 7 != 0)


@pytest.mark.usefixtures("binned")
def test_a_weight_far_out_leaves_no_rounding_error_behind():
    made = points()
    made._mu["b"][-1] = 1e9
    x, s = flat(made)
    stays = torch.arange(len(made)) < len(made) - 1
    after = bin_points(made, GRID).without(made, torch.tensor([len(made) - 1]))
    assert_exact(after, x, s, stays)


@pytest.mark.usefixtures("binned")
def test_nothing_changes_when_nobody_leaves():
    made = points()
    before = bin_points(made, GRID)
    after = before.without(made, torch.zeros(0, dtype=torch.int64))
    assert torch.equal(after.of, before.of)
    assert torch.equal(after.moments.table, before.moments.table)


def test_not_all_weights_can_leave():
    made = points()
    with pytest.raises(ConfigError, match="all 5001 weights are outliers"):
        bin_points(made, GRID).without(made, torch.arange(len(made)))


@pytest.mark.usefixtures("binned")
def test_every_weight_has_the_label_of_its_cell():
    found = bin_points(points(), GRID)
    labels = torch.randint(200, (len(found),), generator=torch.Generator().manual_seed(0))
    expanded = found.expand(labels, torch.uint8)
    assert expanded.dtype == torch.uint8
    assert expanded.tolist() == [int(labels[cell]) for cell in found.of]
