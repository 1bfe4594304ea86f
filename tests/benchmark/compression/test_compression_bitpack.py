"""Bit packing: fixed width and the universal code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.compression import bitpack
from benchmark.compression.bitpack import (
    bit_length,
    fold,
    pack_fixed,
    read_universal,
    unfold,
    unpack_fixed,
    write_universal,
)
from benchmark.compression.varint import Cursor, zigzag
from benchmark.errors import CorruptBitstream

uint64s = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))
int64s = st.one_of(st.integers(-40, 40), st.integers(-(2**63), 2**63 - 1))


def test_bits_fill_bytes_from_the_least_significant_one() -> None:
    values = np.array([0b101, 0b110, 0b001], dtype=np.uint64)
    assert pack_fixed(values, 3) == bytes([0b01_110_101, 0b0])


@given(st.lists(uint64s))
def test_fixed_width_comes_back(values: list[int]) -> None:
    width = max((v.bit_length() for v in values), default=0)
    packed = pack_fixed(np.array(values, dtype=np.uint64), width)
    assert len(packed) == (len(values) * width + 7) // 8
    source = Cursor(packed, "x")
    assert unpack_fixed(source, len(values), width).tolist() == values
    source.end()


def test_chunks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 13, 1001).astype(np.uint64)
    whole = pack_fixed(values, 13)
    monkeypatch.setattr(bitpack, "_CHUNK", 64)
    assert pack_fixed(values, 13) == whole
    assert (unpack_fixed(Cursor(whole, "x"), 1001, 13) == values).all()


def test_padding_bits_must_be_zero() -> None:
    with pytest.raises(CorruptBitstream, match="padding"):
        unpack_fixed(Cursor(b"\xff", "x"), 1, 3)


def test_a_fixed_width_block_checks_its_length_before_it_takes_memory() -> None:
    with pytest.raises(CorruptBitstream, match="announced"):
        unpack_fixed(Cursor(b"\x00" * 10, "x"), 1 << 60, 64)


@given(st.lists(uint64s, min_size=1))
def test_bit_length_is_that_of_python(values: list[int]) -> None:
    assert bit_length(np.array(values, dtype=np.uint64)).tolist() == [v.bit_length() for v in values]


@given(st.lists(uint64s))
def test_the_universal_code_comes_back(values: list[int]) -> None:
    source = Cursor(write_universal(np.array(values, dtype=np.uint64)), "x")
    assert read_universal(source, len(values)).tolist() == values
    source.end()


def test_the_universal_code_by_hand() -> None:
    # Order 1: 0 and 1 are class 0 (one more bit); 2, 3 class 1 (one more bit); 5 class 2 (two more bits).
    values = np.array([1, 1, 3, 5, 1, 1, 0, 1], dtype=np.uint64)
    # unary, first bit first: 1 1 01 001 1 1 1 1;  rest: 1 1 1 10 1 1 0 1 (5 = 1.01, low bit first: 1 0)
    assert write_universal(values).hex() == bytes([1, 2, 0b11001011, 0b111, 0b01101111, 0b1]).hex()


def test_zeros_take_one_bit_each() -> None:
    assert len(write_universal(np.zeros(8000, dtype=np.uint64))) == 1 + 2 + 1000


@given(st.lists(uint64s, min_size=1, max_size=20))
def test_the_order_is_the_best_one(values: list[int]) -> None:
    array = np.array(values, dtype=np.uint64)
    chosen = bitpack._best_order(array)

    def bits(order: int) -> int:
        classes, widths = bitpack._classes(array, order)
        return int((classes + 1 + widths).sum())

    assert bits(chosen) == min(bits(order) for order in range(64))


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        ("000103", 1, "2 numbers where 1 belong"),
        ("00020100", 1, "1 numbers where 1 belong"),
        ("40" + "0101", 1, "longer than 64 bits"),
        ("010101ff", 1, "padding"),
        ("0005", 1, "above its limit"),
    ],
)
def test_a_broken_universal_code_is_corrupt(data: str, count: int, message: str) -> None:
    with pytest.raises(CorruptBitstream, match=message):
        read_universal(Cursor(bytes.fromhex(data), "x"), count)


@given(st.lists(int64s))
def test_folding_is_zigzag(values: list[int]) -> None:
    folded = fold(np.array(values, dtype=np.int64))
    assert folded.tolist() == [zigzag(v) for v in values]
    assert unfold(folded).tolist() == values
