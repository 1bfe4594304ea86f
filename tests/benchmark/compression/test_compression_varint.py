"""Varints and the cursor that reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.compression.varint import Cursor, unzigzag, varint, zigzag
from benchmark.errors import CorruptBitstream


@pytest.mark.parametrize(
    ("value", "form"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**64 - 1, "ff" * 9 + "01")]
)
def test_a_varint_is_leb128(value: int, form: str) -> None:
    assert varint(value).hex() == form


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_varints_come_back(values: list[int]) -> None:
    source = Cursor(b"".join(varint(value) for value in values), "numbers")
    assert [source.varint() for _ in values] == values
    source.end()


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_number_outside_of_64_bits_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="unsigned 64-bit"):
        varint(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "0 are left"),
        ("80", "0 are left"),
        ("8000", "shortest form"),
        ("80" * 10, "does not end"),
        ("ff" * 9 + "02", "above its limit"),
    ],
)
def test_a_broken_varint_is_corrupt(data: str, message: str) -> None:
    with pytest.raises(CorruptBitstream, match=message):
        Cursor(bytes.fromhex(data), "numbers").varint()


def test_a_varint_above_the_callers_limit_is_corrupt() -> None:
    with pytest.raises(CorruptBitstream, match="number 8 is above its limit 7"):
        Cursor(b"\x08", "numbers").varint(7)


def test_the_error_names_what_was_read_and_where() -> None:
    source = Cursor(b"abc", "section 'labels'")
    source.take(2)
    with pytest.raises(CorruptBitstream, match=r"section 'labels': 5 bytes are announced, 1 are left \(byte 2 of 3\)"):
        source.take(5)


def test_left_over_bytes_are_corrupt() -> None:
    with pytest.raises(CorruptBitstream, match="1 bytes are left over"):
        Cursor(b"a", "x").end()


def test_zigzag_orders_by_magnitude() -> None:
    assert [zigzag(v) for v in (0, -1, 1, -2, 2)] == [0, 1, 2, 3, 4]


@given(st.integers(-(2**63), 2**63 - 1))
def test_zigzag_comes_back(value: int) -> None:
    assert 0 <= zigzag(value) < 2**64
    assert unzigzag(zigzag(value)) == value
