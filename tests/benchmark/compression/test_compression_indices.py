"""Integers under their own histogram: round trips, sizes against the entropy, count tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmark.compression import BitReader, BitWriter
from benchmark.compression.histogram import expand_counts, quantise_counts


def round_trip(values: Any) -> tuple[torch.Tensor, int]:
    """What comes back, and the bytes of the section; writing it again must give the same bytes."""
    out = BitWriter()
    out.indices("v", values)
    src = BitReader(out.finish())
    back = src.indices("v")
    again = BitWriter()
    again.indices("v", back)
    assert again.finish() == out.finish()
    return back, src.sections()["v"]


def entropy_bytes(values: npt.NDArray) -> float:
    """Order-0 entropy of all values together, in bytes."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / values.size)).sum() / 8)


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
arrays = st.sampled_from([np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64]).flatmap(
    lambda dtype: hnp.arrays(dtype, shapes)
)
peaked = hnp.arrays(np.int64, st.integers(0, 3000), elements=st.integers(-2, 2), fill=st.just(0))


@given(st.one_of(arrays, peaked))
def test_any_integers_come_back_with_shape_and_dtype(values: npt.NDArray) -> None:
    back, _ = round_trip(values)
    assert back.shape == values.shape
    assert back.numpy().dtype == values.dtype
    assert (back.numpy() == values).all()
    assert back.is_contiguous()


@given(arrays)
def test_a_tensor_and_an_array_of_equal_content_give_equal_bytes(values: npt.NDArray) -> None:
    a, b = BitWriter(), BitWriter()
    a.indices("v", values)
    b.indices("v", torch.from_numpy(values))
    assert a.finish() == b.finish()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.dtype(">i4"), np.dtype(">i8")])
def test_other_integer_types_come_back_by_value(dtype: Any) -> None:
    values = np.array([0, 3, 60000], dtype=dtype)
    back, _ = round_trip(values)
    assert back.tolist() == [0, 3, 60000]
    assert back.dtype == (torch.int32 if values.dtype.str == ">i4" else torch.int64)


def test_the_ends_of_int64_come_back() -> None:
    ends = [-(2**63), 2**63 - 1, 0, -1]
    assert round_trip(torch.tensor(ends))[0].tolist() == ends
    many = torch.tensor(ends * 500)  # enough for a histogram
    back, size = round_trip(many)
    assert (back == many).all()
    assert size < 600


def test_the_memory_layout_does_not_matter() -> None:
    values = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5) % 7
    for layout in (
        values.contiguous(memory_format=torch.channels_last),
        values.permute(3, 1, 0, 2),
        values[:, ::2],
        values.expand(2, 3, 4, 5)[:, :1].expand(-1, 3, -1, -1),
    ):
        back, _ = round_trip(layout)
        assert torch.equal(back, layout)


@pytest.mark.parametrize("value", [0, 1, -5, 2**62, -(2**63)])
def test_a_constant_array_costs_next_to_nothing(value: int) -> None:
    back, size = round_trip(torch.full((1000, 1000), value))
    assert size <= 17
    assert (back == value).all()


def test_bool_masks_are_coded_at_their_entropy() -> None:
    mask = torch.rand(400_000, generator=torch.Generator().manual_seed(0)) < 0.01
    back, size = round_trip(mask)
    assert back.dtype == torch.bool
    assert torch.equal(back, mask)
    assert size < entropy_bytes(mask.numpy()) * 1.005


@pytest.mark.parametrize("n_values", [2, 16, 151, 256, 257, 1024, 65536])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_100_000_labels_take_their_entropy_and_a_small_table(n_values: int, spread: float) -> None:
    """Within 0.5 % of the entropy and 1.5 bytes per distinct value, gaps included; plain tables take 3 to 6."""
    rng = np.random.default_rng(n_values)
    p = np.exp(spread * rng.normal(size=n_values))
    values = rng.choice(n_values, 100_000, p=p / p.sum()) - n_values // 3
    back, size = round_trip(values)
    assert (back.numpy() == values).all()
    assert size <= 1.005 * entropy_bytes(values) + 1.5 * len(np.unique(values)) + 30


def test_the_table_of_counts_costs_little_rate() -> None:
    """Rounded counts: the stream itself is within 0.05 % of the entropy even when one value dominates."""
    rng = np.random.default_rng(1)
    for scale in (0.15, 0.4, 3.0, 40.0):
        values = np.rint(rng.normal(0, scale, 300_000)).astype(np.int64)
        _, size = round_trip(values)
        table = 24 + len(np.unique(values))  # header, whole words; a byte per value
        assert size <= 1.0005 * entropy_bytes(values) + table


def test_sparse_wide_alphabets_are_cheap() -> None:
    rng = np.random.default_rng(2)
    alphabet = np.unique(rng.integers(-(2**40), 2**40, 50))
    values = rng.choice(alphabet, 50_000)
    back, size = round_trip(values)
    assert (back.numpy() == values).all()
    assert size <= entropy_bytes(values) * 1.001 + 50 * 8


def test_noise_falls_back_to_the_fixed_width() -> None:
    values = np.random.default_rng(3).integers(0, 1 << 20, 10_000)
    _, size = round_trip(values)
    assert size <= 10_000 * 20 // 8 + 12


def test_more_distinct_values_than_a_table_may_hold_come_back() -> None:
    values = np.arange((1 << 20) + 5) * 3 - 7
    back, size = round_trip(values)
    assert (back.numpy() == values).all()
    assert size <= len(values) * 22 / 8 + 20


def test_both_ways_of_counting_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range above 65536 is sorted, below it is tabulated: equal tables up to the gaps."""
    rng = np.random.default_rng(4)
    near = np.rint(rng.normal(0, 5, 5000)).astype(np.int64)
    far = np.where(near == near.max(), near + 100_000, near)
    a, size_near = round_trip(near)
    b, size_far = round_trip(far)
    assert (a.numpy() == near).all()
    assert (b.numpy() == far).all()
    assert abs(size_far - size_near) <= 8


def test_counts_below_32_are_exact() -> None:
    counts = np.arange(1, 32)
    assert quantise_counts(counts).tolist() == counts.tolist()
    assert expand_counts(counts).tolist() == counts.tolist()


def test_count_codes_by_hand() -> None:
    # 32 = 16 * 2; 33 rounds up to 17 * 2; 63 rounds up to 32 * 2 = 16 * 4; 1000 = 31.25 * 32.
    counts = np.array([32, 33, 63, 64, 1000, 2**28])
    assert quantise_counts(counts).tolist() == [32, 33, 48, 48, 111, 400]
    assert expand_counts(np.array([32, 33, 48, 48, 111, 400])).tolist() == [32, 34, 64, 64, 992, 2**28]


@given(hnp.arrays(np.int64, 50, elements=st.integers(1, 2**28)))
def test_a_count_is_rounded_by_one_part_in_32_at_most(counts: npt.NDArray) -> None:
    restored = expand_counts(quantise_counts(counts))
    assert (abs(restored - counts) * 32 <= counts).all()
    order = np.argsort(counts)
    assert (np.diff(restored[order]) >= 0).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(3), "not an integer"),
        (torch.zeros(3, dtype=torch.bfloat16), "not an integer"),
        (np.zeros(3, dtype=np.complex64), "not an integer"),
        (np.array(["a"]), "not an integer"),
        (np.array([2**63], dtype=np.uint64), "above the int64 range"),
        (np.broadcast_to(np.int8(0), (1 << 14, (1 << 14) + 1)), "write several sections"),
    ],
)
def test_what_is_no_integer_array_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitWriter().indices("v", values)
