"""Integers under Gaussians of given widths: tables, widths on a grid, round trips, rates."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

from benchmark.compression import BitReader, BitWriter
from benchmark.compression import gaussian_table as grid

UNSHIFTED = range((grid.WIDE - grid.LOWEST) * grid.STEPS)  # all buckets that have a table
TABLES_CRC = 4130237588
TABLE_OF_SIGMA_1 = [3846, 100278, 1016656, 4055554, 6424411, 4055554, 1016656, 100278, 3846]


def round_trip(values: Any, std: Any) -> tuple[torch.Tensor, int]:
    """What comes back, and the bytes of the section; writing it again must give the same bytes."""
    out = BitWriter()
    out.gaussian_indices("v", values, std)
    src = BitReader(out.finish())
    back = src.gaussian_indices("v", std)
    again = BitWriter()
    again.gaussian_indices("v", back, std)
    assert again.finish() == out.finish()
    return back, src.sections()["v"]


def ideal_bytes(values: npt.NDArray, std: npt.NDArray) -> float:
    """Information content under the exact Gaussian; from the tail, where differences of the CDF stay exact."""
    low, high = (-abs(values) - 0.5) / std, (-abs(values) + 0.5) / std
    return float(-np.log2(norm.cdf(high) - norm.cdf(low)).sum() / 8)


widths = st.one_of(st.floats(0, 100), st.floats(0, 1e30), st.sampled_from([0.0, 1e-300, 1e300, 64.0, 63.999996]))
integers = st.one_of(st.integers(-100, 100), st.integers(-(2**63), 2**63 - 1))


@st.composite
def cases(draw: st.DrawFn) -> tuple[npt.NDArray, npt.NDArray]:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    values = draw(hnp.arrays(np.int64, shape, elements=integers))
    return values, draw(hnp.arrays(np.float64, shape, elements=widths))


@given(cases())
def test_any_integers_under_any_width_come_back(case: tuple[npt.NDArray, npt.NDArray]) -> None:
    values, std = case
    back, _ = round_trip(values, std)
    assert back.dtype == torch.int64
    assert back.shape == values.shape
    assert (back.numpy() == values).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32])
def test_the_dtype_comes_back(dtype: torch.dtype) -> None:
    values = (torch.arange(60).reshape(3, 4, 5) % 2).to(dtype).permute(2, 0, 1)
    back, _ = round_trip(values, 0.7)
    assert back.dtype == dtype
    assert torch.equal(back, values)


@pytest.mark.parametrize(
    "std", [2.5, torch.tensor(2.5), np.float32(2.5), torch.full((4, 1), 2.5), torch.full((6,), 2.5)]
)
def test_the_width_broadcasts(std: Any) -> None:
    values = torch.arange(24).reshape(4, 6) - 12
    out, whole = BitWriter(), BitWriter()
    out.gaussian_indices("v", values, std)
    whole.gaussian_indices("v", values, torch.full((4, 6), 2.5))
    assert out.finish() == whole.finish()
    assert torch.equal(BitReader(out.finish()).gaussian_indices("v", std), values)


@pytest.mark.parametrize("std", [0.0, 0.2, 1.0, 50.0, 1000.0, 1e9])
def test_outliers_of_any_size_come_back_at_a_bounded_price(std: float) -> None:
    far = [2**63 - 1, -(2**63), 10**12, -(10**12), int(9 * std) + 20, -int(9 * std) - 20]
    values = np.zeros(1000, dtype=np.int64)
    plain = round_trip(values, std)[1]
    values[::150][: len(far)] = far
    back, size = round_trip(values, std)
    assert (back.numpy() == values).all()
    # 24 bits for the escape, 2 * 64 at most for the number itself, 8 bytes for words of the coder.
    assert size <= plain + len(far) * (24 + 128) / 8 + 8


def test_a_million_constant_zeros_under_a_tiny_width_cost_almost_nothing() -> None:
    assert round_trip(torch.zeros(1_000_000, dtype=torch.int8), 0.01)[1] <= 24


@pytest.mark.parametrize("std", [0.3, 1.0, 4.0, 20.0, 63.9, 64.1, 500.0, 3e5])
def test_100_000_integers_take_their_ideal_length(std: float) -> None:
    values = np.rint(np.random.default_rng(0).normal(0, std, 100_000)).astype(np.int64)
    _, size = round_trip(values, std)
    assert size <= 1.0005 * ideal_bytes(values, np.full(1, std)) + 20


def test_widths_that_vary_cost_no_more_than_one_width() -> None:
    rng = np.random.default_rng(1)
    std = (10 * np.exp(rng.normal(size=200_000))).astype(np.float32)
    values = np.rint(rng.normal(0, std)).astype(np.int32)
    back, size = round_trip(values, std)
    assert (back.numpy() == values).all()
    assert size <= 1.0005 * ideal_bytes(values.astype(np.float64), std.astype(np.float64)) + 60


def test_another_width_is_noticed_instead_of_giving_garbage() -> None:
    out = BitWriter()
    out.gaussian_indices("v", torch.arange(10), torch.full((10,), 3.0))
    src = BitReader(out.finish())
    for std in (3.2, torch.full((10,), 3.0) + 0.2 * (torch.arange(10) == 9)):
        with pytest.raises(ValueError, match="std differs from the one it was written with"):
            src.gaussian_indices("v", std)


def test_widths_that_share_a_grid_point_are_interchangeable() -> None:
    out = BitWriter()
    out.gaussian_indices("v", torch.arange(10), 3.0)
    assert BitReader(out.finish()).gaussian_indices("v", 3.0 + 1e-5).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("std", "message"),
    [
        (-1.0, "negative"),
        (float("nan"), "non-finite"),
        (float("inf"), "non-finite"),
        (torch.ones(3), r"shape \(3,\), which does not broadcast to \(2,\)"),
    ],
)
def test_an_impossible_width_is_refused(std: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitWriter().gaussian_indices("v", torch.tensor([1, 2]), std)


def test_every_table_is_complete_and_follows_the_normal_distribution() -> None:
    for bucket in UNSHIFTED:
        freqs = grid.table(bucket)
        reach, sigma = grid.reach(bucket), 2.0 ** (bucket / grid.STEPS + grid.LOWEST)
        k = np.arange(-reach, reach + 1)
        exact = norm.cdf((k + 0.5) / sigma) - norm.cdf((k - 0.5) / sigma)
        assert int(freqs.sum()) == 2**24
        assert (freqs[:-1] == freqs[:-1][::-1]).all()
        # Off by the floor of 1 per symbol, and by what that takes away; the middle also takes the remainder.
        assert np.abs(np.delete(freqs[:-1], reach) / 2**24 - np.delete(exact, reach)).max() <= 2e-6
        assert abs(freqs[reach] / 2**24 - exact[reach]) <= 1e-4


def test_the_half_mass_is_that_of_scipy() -> None:
    x = np.linspace(0, 9, 2000)
    assert np.abs(grid._half_mass(x) - (norm.cdf(np.minimum(x, 8)) - 0.5)).max() < 1e-12


def test_the_tables_never_change() -> None:
    """Files of format 1 are read with these tables. If this fails, raise FORMAT_VERSION or undo the change."""
    content = b"".join(grid.table(bucket).astype("<i8").tobytes() for bucket in UNSHIFTED)
    assert zlib.crc32(content) == TABLES_CRC
    assert grid.table(128)[grid.reach(128) - 4 : grid.reach(128) + 5].tolist() == TABLE_OF_SIGMA_1


def test_the_grid_of_widths_by_hand() -> None:
    assert grid.to_buckets(np.array([0.0, 2.0**-4, 1.0, 2.0, 2.0**62, 1e300])).tolist() == [0, 0, 128, 160, 2112, 2112]


@given(st.floats(2.0**-4, 2.0**62))
def test_a_width_goes_to_the_nearest_grid_point(std: float) -> None:
    """Within half a step of 1/32 octave; 12 bits of mantissa decide, 2^-12 / ln 2 octaves."""
    bucket = int(grid.to_buckets(np.array([std]))[0])
    assert abs(bucket / grid.STEPS + grid.LOWEST - np.log2(std)) <= 1 / 64 + 2**-12 * 1.45


def test_shifted_widths_lie_in_one_octave() -> None:
    for bucket in range(len(UNSHIFTED), (grid.HIGHEST - grid.LOWEST) * grid.STEPS + 1):
        base = bucket - grid.shift_of(bucket) * grid.STEPS
        assert len(UNSHIFTED) - grid.STEPS <= base < len(UNSHIFTED)
    assert {grid.shift_of(bucket) for bucket in UNSHIFTED} == {0}
